"""Tokenizer: text as token ids of a byte-level BPE, in GPT-2's file format.

Vocabularies in other formats are in `titlesmith.corpus.pretrained`.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import local

import numpy as np
from tokenizers import Tokenizer as Codec
from tokenizers import decoders, models, pre_tokenizers, trainers

from titlesmith.errors import RequestError
from titlesmith.runs import replacing

END = "<|endoftext|>"
FILES = ("encoder.json", "vocab.bpe")


class Tokenizer:
    """Byte-level BPE (Radford et al. 2019), stored as OpenAI's ``encoder.json`` and ``vocab.bpe``.

    Text never encodes to the end-of-text id: a text that contains ``<|endoftext|>`` encodes to the tokens of its bytes.

    Attributes
    ----------
    eos_id
        The end-of-text id, between documents (50256 in GPT-2).
    newline_id
        The id of a newline, between a prompt and its completion; None if the vocabulary has none.
    bos_ids
        Ids that the model expects at the beginning of a document, after the previous document's end of text.
    """

    bos_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
        self.vocabulary, self.merges, self._threads = vocabulary, merges, local()
        self.eos_id = vocabulary[END]
        self.newline_id: int | None = next(iter(self.encode("\n")), None)
        self._num_bytes = np.zeros(max(vocabulary.values()) + 1, np.int64)  # of each token
        for token, i in vocabulary.items():
            self._num_bytes[i] = len(token)

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def _codec(self) -> Codec:
        """One for each thread: threads that share a codec wait for its cache of words."""
        if not hasattr(self._threads, "codec"):
            codec = self._threads.codec = Codec(models.BPE(vocab=self.vocabulary, merges=self.merges))
            codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            codec.decoder = decoders.ByteLevel()
        return self._threads.codec

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads the tokenizer in ``folder``, in GPT-2's format or any other."""
        if not (folder / FILES[0]).exists():
            from titlesmith.corpus.pretrained import PretrainedTokenizer

            return PretrainedTokenizer.load(folder)
        vocabulary = json.loads((folder / FILES[0]).read_text("utf-8"))
        lines = (folder / FILES[1]).read_text("utf-8").split("\n")[1:-1]
        return cls(vocabulary, [tuple(line.split()) for line in lines])

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> "Tokenizer":
        """Learns at most ``size`` tokens from texts: the 256 bytes, merges by frequency, and the end of text.

        Pairs that occur once are not merged, so that a small corpus does not get tokens that it hardly trains.
        """
        codec = Codec(models.BPE())
        codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        codec.train_from_iterator(
            texts,
            trainers.BpeTrainer(vocab_size=size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False),
        )
        learned = json.loads(codec.to_str())["model"]
        return cls(learned["vocab"] | {END: len(learned["vocab"])}, [tuple(pair) for pair in learned["merges"]])

    def save(self, folder: Path) -> tuple[str, ...]:
        """Writes the tokenizer into ``folder`` and returns the names of the files."""
        with replacing(folder / FILES[0]) as temporary:
            temporary.write_text(json.dumps(self.vocabulary), "utf-8")
        with replacing(folder / FILES[1]) as temporary:
            temporary.write_text("\n".join(["#version: 0.2", *map(" ".join, self.merges), ""]), "utf-8")
        return FILES

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._codec.encode(text).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts (RequestError if the vocabulary lacks one of their bytes)."""
        ids = [encoding.ids for encoding in self._codec.encode_batch_fast(texts)]
        # A token decodes to its bytes, so texts are complete if their tokens have as many bytes as they have
        num_bytes = self._num_bytes[np.fromiter(chain.from_iterable(ids), np.int64)].sum()
        if num_bytes != sum(len(text.encode()) for text in texts):
            raise RequestError("model: its vocabulary lacks bytes of these texts: it is not a byte-level vocabulary")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are not valid UTF-8 become U+FFFD."""
        return self._codec.decode(list(ids), skip_special_tokens=False)

    def cover_encodings(self, text: str) -> tuple[list[int], dict[tuple[int, ...], list[int]]]:
        """Encodings of all texts that begin with ``text``, up to the token that covers its end (Phan et al. 2024).

        "Neur" may be two tokens and "Neural" one, and the space after a word belongs to the next token. So the last
        word of the prefix is encoded in all possible ways. The result has the ids of all words but the last; and for
        each possible beginning of the last word (a tuple of ids, also the empty one) the ids of the tokens that can
        follow it and reach the end of ``text`` or extend it. If tokens do not spell the last word, as with word pieces,
        there is only the encoding by `encode`.
        """
        *words, last = self._words(text)
        if "".join(map(self._tokens.get, self._split(last))) != last:
            *head, end = self.encode(text)
            return head, {(): [end]}
        covers: dict[tuple[int, ...], list[int]] = {}
        for start in range(len(last)):
            # Tokens that begin with the rest of the word
            begun, rest = self._split(last[:start]), last[start:]
            first, end = (bisect_left(self._sorted_tokens, key) for key in (rest, rest + chr(0x10FFFF)))
            ids = [self.vocabulary[token] for token in self._sorted_tokens[first:end]]
            # Only those after which `encode` would split the word in the same way
            if begun:
                ids = [i for i in ids if self._split(last[:start] + self._tokens[i]) == [*begun, i]]
            if ids:
                covers[tuple(begun)] = ids
        return [i for word in words for i in self._split(word)], covers

    def _words(self, text: str) -> list[str]:
        """The words of a text in the characters of tokens, with the spaces before them: bytes, or ``▁`` for a space."""
        text = self._codec.normalizer.normalize_str(text) if self._codec.normalizer else text
        words = [text]
        if self._codec.pre_tokenizer:
            words = [word for word, _ in self._codec.pre_tokenizer.pre_tokenize_str(text)]
        return [part for word in words for part in re.findall("▁+[^▁]*|[^▁]+", word)]

    def decode_after(self, text: str, ids: Iterable[int]) -> str:
        """Text of ids that begin with ``text``, without it; bytes that are not valid UTF-8 become U+FFFD."""
        if not self.is_byte_level:
            return self.decode(ids)[len(self.decode(self.encode(text))) :]
        encoded = "".join(self._tokens.get(i, "") for i in ids)  # one character for each byte
        return self._codec.decoder.decode([encoded[len(text.encode()) :]])

    @property
    def after_newline(self) -> "Tokenizer":
        """The same vocabulary for texts that a newline is before: it encodes them as within a longer text."""
        return self

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether each token is a string of bytes, so that a part of a text decodes as within the text."""
        return isinstance(self._codec.decoder, decoders.ByteLevel) and isinstance(self._codec.model, models.BPE)

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {i: token for token, i in self.vocabulary.items()}

    @cached_property
    def _sorted_tokens(self) -> list[str]:
        """The tokens of texts: no special tokens, and no bytes of SentencePiece."""
        special = {self.eos_id, *self._codec.get_added_tokens_decoder()}
        byte = re.compile("<0x[0-9A-F]{2}>")
        return sorted(token for token, i in self.vocabulary.items() if i not in special and not byte.fullmatch(token))

    def _split(self, word: str) -> list[int]:
        return [token.id for token in self._codec.model.tokenize(word)]

    def marker_ids(self, text: str) -> list[int]:
        """Ids of a marker that a layout adds around texts."""
        return self.encode(text)

    @property
    def openings(self) -> list[tuple[int, tuple[int, ...]]]:
        """Candidates for the tokens before a document, the default first: an end-of-text id and ``bos_ids``."""
        return [(self.eos_id, self.bos_ids)]

    def chat_markers(self) -> tuple[str, str, str]:
        """The chat template: text before a question, before the answer, and after the answer (else RequestError)."""
        raise RequestError(
            "corpus.template: chat needs a model with a chat template, and this model's tokenizer has none; "
            "abstract-to-title and alpaca need none"
        )
