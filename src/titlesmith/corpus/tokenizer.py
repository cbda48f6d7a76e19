"""Tokenizer: text as token ids of a byte-level BPE, in GPT-2's file format.

Vocabularies in other formats are in `titlesmith.corpus.pretrained`.
"""

import json
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
    """Byte-level BPE (Radford et al. 2019), read and written as OpenAI's ``encoder.json`` and ``vocab.bpe``.

    Text never encodes to the end-of-text id: a document that spells ``<|endoftext|>`` is spelled out in bytes.

    Attributes
    ----------
    eos_id
        The id that delimits documents (50256 in GPT-2).
    newline_id
        The id of a single newline, which stands between a prompt and its completion.
    bos_ids
        Ids with which the model expects every document to begin, behind the end of the one before.
    """

    bos_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
        self.vocabulary, self.merges, self._threads = vocabulary, merges, local()
        self.eos_id, self.newline_id = vocabulary[END], vocabulary["Ċ"]
        self._widths = np.zeros(max(vocabulary.values()) + 1, np.int64)  # bytes of each piece of text
        for piece, number in vocabulary.items():
            self._widths[number] = len(piece)

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def _codec(self) -> Codec:
        """One for each thread: threads that share one wait for its cache of words."""
        if not hasattr(self._threads, "codec"):
            codec = self._threads.codec = Codec(models.BPE(vocab=self.vocabulary, merges=self.merges))
            codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            codec.decoder = decoders.ByteLevel()
        return self._threads.codec

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads the two files of ``folder``, or whatever other form of vocabulary it holds."""
        if not (folder / FILES[0]).exists():
            from titlesmith.corpus.pretrained import Pretrained

            return Pretrained.load(folder)
        vocabulary = json.loads((folder / FILES[0]).read_text("utf-8"))
        lines = (folder / FILES[1]).read_text("utf-8").split("\n")[1:-1]
        return cls(vocabulary, [tuple(line.split()) for line in lines])

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> "Tokenizer":
        """Learns at most ``size`` entries from texts: the 256 bytes, merges by frequency, and the end of text.

        Pairs that occur once are not merged, so that a small corpus does not get tokens that it says nothing of.
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
        """Writes the files of the vocabulary into ``folder`` and gives their names."""
        with replacing(folder / FILES[0]) as temporary:
            temporary.write_text(json.dumps(self.vocabulary), "utf-8")
        with replacing(folder / FILES[1]) as temporary:
            temporary.write_text("\n".join(["#version: 0.2", *map(" ".join, self.merges), ""]), "utf-8")
        return FILES

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._codec.encode(text).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts.

        Raises
        ------
        RequestError
            The vocabulary lacks some of the 256 bytes, so that a text would not come back whole.
        """
        found = [encoding.ids for encoding in self._codec.encode_batch_fast(texts)]
        # Decoding is the pieces one after another, so a text is whole where its pieces have as many bytes as it has.
        decoded = self._widths[np.fromiter(chain.from_iterable(found), np.int64)].sum()  # bytes
        if decoded != sum(len(text.encode()) for text in texts):
            raise RequestError("model: its vocabulary lacks bytes of these texts: it is no byte-level vocabulary")
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self._codec.decode(list(ids), skip_special_tokens=False)

    def cover_encodings(self, text: str) -> tuple[list[int], dict[tuple[int, ...], list[int]]]:
        """The ids in which a longer text may stand that begins with ``text``: its cover encodings (Phan et al. 2024).

        The end of a text is rarely the end of a token of what goes on from it: "Neur" may be two tokens and "Neural"
        one, and the space behind a word belongs to the next token. So its last word is taken back.

        Returns
        -------
        tuple
            The ids of all words but the last; and how the last may begin: ids of a part of it, perhaps none, and for
            each the ids that may follow, each of which reaches the end of ``text`` or goes beyond it. These are the
            ways, and all of them, in which `encode` splits longer words. A vocabulary that is not byte-level tells only
            of `encode` of the text itself.
        """
        if not self.is_byte_level:
            *head, last = self.encode(text)
            return head, {(): [last]}
        words = [word for word, _ in self._codec.pre_tokenizer.pre_tokenize_str(text)]
        head, last, found = [id for word in words[:-1] for id in self._split(word)], words[-1], {}
        for start in range(len(last)):
            begun, rest = self._split(last[:start]), last[start:]
            first, behind = (bisect_left(self._sorted, key) for key in (rest, rest + chr(0x10FFFF)))
            ids = [self.vocabulary[piece] for piece in self._sorted[first:behind]]
            whole = [i for i in ids if self._split(last[:start] + self._pieces[i]) == [*begun, i]] if begun else ids
            if whole:
                found[tuple(begun)] = whole
        return head, found

    def decode_after(self, text: str, ids: Iterable[int]) -> str:
        """What ids say behind ``text``, with which they begin; bytes that are no UTF-8 become U+FFFD."""
        if not self.is_byte_level:
            return self.decode(ids)[len(self.decode(self.encode(text))) :]
        said = "".join(self._pieces.get(i, "") for i in ids)  # of a byte each, so that no character is cut
        return self._codec.decoder.decode([said[len(text.encode()) :]])

    def extends(self, text: str, ids: list[int]) -> bool:
        """Whether ids say more than ``text``, with which they begin."""
        return self.is_byte_level and sum(len(self._pieces[i]) for i in ids) > len(text.encode())

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether each token is a string of bytes, so that a part of a text decodes as it does within the text."""
        return isinstance(self._codec.decoder, decoders.ByteLevel) and isinstance(self._codec.model, models.BPE)

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return {number: piece for piece, number in self.vocabulary.items()}

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(piece for piece, number in self.vocabulary.items() if number != self.eos_id)

    def _split(self, word: str) -> list[int]:
        return [token.id for token in self._codec.model.tokenize(word)]

    def prompt(self, text: str, has_prompt: bool) -> list[int]:
        """Ids that open a document: the end of text before it, and what is given of it."""
        return [self.eos_id, *self.encode(text), *([self.newline_id] if has_prompt else [])]

    def marker(self, text: str) -> list[int]:
        """Ids of what a layout puts around texts."""
        return self.encode(text)

    def chat(self) -> tuple[str, str, str]:
        """What the model's chat template has in front of a question, between it and its answer, and behind that.

        Raises
        ------
        RequestError
            The model has no chat template.
        """
        raise RequestError(
            "corpus.template: chat needs a model with a chat template of its own, and this one's vocabulary has none; "
            "abstract-to-title and alpaca need none"
        )
