"""Tokenizer: text as token ids of any vocabulary of the tokenizers library."""

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from tokenizers import Tokenizer as Codec
from tokenizers import decoders, models, pre_tokenizers, trainers

from titlesmith.errors import RequestError
from titlesmith.runs import replacing, write_json

END = "<|endoftext|>"
FILES = ("encoder.json", "vocab.bpe")  # GPT-2's format
CODEC, CONFIG, CHAT_TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
SETTINGS = ("config.json", "generation_config.json", "special_tokens_map.json", CONFIG)  # later ones count
SPECIAL = ("eos_token", "bos_token", "unk_token", "pad_token")
QUESTION, ANSWER = "\ue000", "\ue001"  # inserted into chat templates; private-use characters occur in none


class Tokenizer:
    """A vocabulary of any kind: byte-level BPE, SentencePiece, or another.

    Special tokens are found by encoding and decoding, because their names differ and a letter may have such a name.
    No text encodes to them: a text that contains one encodes to the tokens of its characters, except in Unigram
    vocabularies, where special tokens are pieces like any other.

    ``settings`` have names of `SPECIAL` tokens, ``eos_token_id`` for a model without ``eos_token``, ``chat_template``,
    and ``bos_ids`` that replace those of ``codec``. ``eos_id`` is the end of text, between documents; ``bos_ids`` are
    expected after it, before a document; ``newline_id`` is between prompt and completion, or None.
    """

    def __init__(self, codec: Codec, settings: dict):
        self.codec, self.settings = codec, settings
        codec.no_padding()
        codec.no_truncation()
        names = {settings.get(key, "") for key in SPECIAL}
        codec.add_special_tokens([name for name in sorted(names) if codec.token_to_id(name) is not None])
        codec.encode_special_tokens = True
        self.vocabulary = dict(sorted(codec.get_vocab().items(), key=lambda item: item[1]))
        self._tokens = {i: token for token, i in self.vocabulary.items()}
        self.eos_id = self._find_eos_id()
        # What the tokenizer adds before a text, every document begins with
        bare, with_special = self.encode("a"), codec.encode("a").ids
        size = next((i for i in range(len(with_special)) if with_special[i : i + len(bare)] == bare), 0)
        self.bos_ids = tuple(settings.get("bos_ids", with_special[:size]))
        # The token that adds a newline to a decoded text; what is around it may change how it is encoded
        candidates = [i for text in ("a\nb", "a\n", "\n") for i in self.encode(text)]
        self.newline_id = next((i for i in candidates if self.decode([*bare, i]) == self.decode(bare) + "\n"), None)

    def __len__(self) -> int:
        return max(self._tokens) + 1

    def _find_eos_id(self) -> int:
        given = self.settings.get("eos_token_id")
        for i in (self._special_id("eos_token"), *(given if isinstance(given, list) else [given])):
            if i in self._tokens:
                return i
        raise RequestError(f"model: its tokenizer has no end-of-text token: {CONFIG} needs eos_token")

    def _special_id(self, key: str) -> int | None:
        """The id of a special token that the settings name; None if the text of its name is not one token."""
        ids = self.marker_ids(self.settings.get(key, ""))
        return ids[0] if len(ids) == 1 else None

    @classmethod
    def of_gpt2(cls, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> "Tokenizer":
        """Byte-level BPE (Radford et al. 2019) of tokens with their ids, and of merges in their order."""
        return cls(_byte_level(models.BPE(vocab=vocabulary, merges=merges)), {"eos_token": END, "bos_token": END})

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> "Tokenizer":
        """Learns at most ``size`` tokens from texts: the 256 bytes, merges by frequency, and the end of text.

        Pairs that occur once are not merged, so that a small corpus does not get tokens that it hardly trains.
        """
        codec, alphabet = _byte_level(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
        codec.train_from_iterator(
            texts,
            trainers.BpeTrainer(vocab_size=size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False),
        )
        codec.add_special_tokens([END])
        return cls(codec, {"eos_token": END, "bos_token": END})

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads ``tokenizer.json`` and its settings, or GPT-2's files; transformers converts older formats."""
        if (folder / FILES[0]).exists():
            vocabulary = json.loads((folder / FILES[0]).read_text("utf-8"))
            if not vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet()):
                raise RequestError(f"model: {folder / FILES[0]} lacks some of the 256 bytes, so texts would lose some")
            lines = (folder / FILES[1]).read_text("utf-8").split("\n")[1:-1]
            return cls.of_gpt2(vocabulary, [tuple(line.split()) for line in lines])
        read: dict = {}
        for path in (folder / name for name in SETTINGS):
            read |= json.loads(path.read_text("utf-8")) if path.exists() else {}
        if (folder / CHAT_TEMPLATE).exists():
            read["chat_template"] = (folder / CHAT_TEMPLATE).read_text("utf-8")
        read |= {key: read[key]["content"] for key in SPECIAL if isinstance(read.get(key), dict)}
        keys = (*SPECIAL, "eos_token_id", "chat_template", "bos_ids")
        settings = {key: read[key] for key in keys if read.get(key) is not None}
        if (folder / CODEC).exists():
            return _load((folder / CODEC).read_text("utf-8"), json.dumps(settings))
        from transformers import AutoTokenizer

        try:
            codec = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise RequestError(f"model: {folder} has no {CODEC}, and transformers cannot make one: {reason}") from None
        return cls(codec, settings)

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json`` and its settings, which transformers reads too."""
        with replacing(folder / CODEC) as temporary:
            temporary.write_text(self.codec.to_str(), "utf-8")
        common = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],  # GPT-2 would add embeddings of token types
        }
        write_json(folder / CONFIG, common | self.settings)

    def save_gpt2(self, folder: Path) -> None:
        """Writes OpenAI's ``encoder.json`` and ``vocab.bpe``, which gpt-2-simple reads."""
        with replacing(folder / FILES[0]) as temporary:
            temporary.write_text(json.dumps(self.vocabulary), "utf-8")
        with replacing(folder / FILES[1]) as temporary:
            temporary.write_text("\n".join(["#version: 0.2", *map(" ".join, self.merges), ""]), "utf-8")

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs of tokens that byte-pair encoding merges, in their order."""
        return [tuple(pair) for pair in json.loads(self.codec.to_str())["model"]["merges"]]

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self.codec.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts; characters without a token become the unknown token."""
        return [encoding.ids for encoding in self.codec.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are not valid UTF-8 become U+FFFD."""
        return self.codec.decode(list(ids), skip_special_tokens=False)

    def marker_ids(self, text: str) -> list[int]:
        """Ids of a marker that a layout adds around texts; special tokens in it have their own ids."""
        self.codec.encode_special_tokens = False
        ids = self.encode(text)
        self.codec.encode_special_tokens = True
        return ids

    @property
    def openings(self) -> list[tuple[int, tuple[int, ...]]]:
        """Candidates for the tokens before a document, the default first: an end-of-text id and ``bos_ids``.

        They include other special tokens, unless the tokenizer adds some before a text: a model that was tuned for
        chats may name another end of text than that between its pretraining documents.
        """
        eos, (unk, pad, bos) = self.eos_id, map(self._special_id, ("unk_token", "pad_token", "bos_token"))
        if self.bos_ids:
            return [(eos, self.bos_ids)]
        result = [(eos, ()), *((i, ()) for i in (unk, pad) if i is not None)]
        return list(dict.fromkeys(result + ([(eos, (bos,))] if bos not in (None, eos) else [])))

    def with_end(self, eos_id: int, bos_ids: Sequence[int] | None = None) -> "Tokenizer":
        """The same vocabulary with another end-of-text token, and with other ``bos_ids``."""
        settings = {key: value for key, value in self.settings.items() if key != "eos_token_id"}
        settings |= {"eos_token": self._tokens[eos_id]} | ({} if bos_ids is None else {"bos_ids": list(bos_ids)})
        return Tokenizer(Codec.from_str(self.codec.to_str()), settings)

    @cached_property
    def after_newline(self) -> "Tokenizer":
        """The same vocabulary for texts that a newline is before: it encodes them as within a longer text.

        SentencePiece adds a space before a text, and none within it.
        """
        alone = self.encode("a")
        if self.encode("\na")[-len(alone) :] == alone:
            return self
        codec = json.loads(self.codec.to_str())
        normalizer, splitter = codec["normalizer"] or {}, codec["pre_tokenizer"] or {}
        for step in splitter.get("pretokenizers", [splitter]):
            if step.get("type") == "Metaspace":
                step["prepend_scheme"] = "never"
        steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
        kept = [step for step in steps if step["type"] != "Prepend"]
        codec["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
        return Tokenizer(Codec.from_str(json.dumps(codec)), self.settings)

    def chat_markers(self) -> tuple[str, str, str]:
        """The chat template's texts before a question, between it and an answer, and after that (else RequestError)."""
        if "chat_template" not in self.settings:
            raise RequestError(
                "corpus.template: chat needs a model with a chat template, and this model's tokenizer has none; "
                "abstract-to-title and alpaca need none"
            )
        from jinja2 import TemplateError
        from transformers import PreTrainedTokenizerFast

        # Render the template with placeholders, and cut at these
        names = {key: self.settings[key] for key in ("eos_token", "bos_token", "chat_template") if key in self.settings}
        fast = PreTrainedTokenizerFast(tokenizer_object=Codec.from_str(self.codec.to_str()), **names)
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        try:
            question = fast.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
            conversation = fast.apply_chat_template(messages, tokenize=False)
        except (TemplateError, ValueError) as error:
            raise RequestError(f"corpus.template: the model's chat template accepts no question: {error}") from None
        start, _, separator = question.partition(QUESTION)
        # Without the end of text, which is after every document
        stop = conversation.rpartition(ANSWER)[2].partition(names.get("eos_token") or "\n")[0]
        return start, separator, stop.strip()

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether each token is a string of bytes, so that a part of a text decodes as within the text."""
        return isinstance(self.codec.decoder, decoders.ByteLevel) and isinstance(self.codec.model, models.BPE)

    def decode_after(self, text: str, ids: Iterable[int]) -> str:
        """Text of ids that begin with ``text``, without it; bytes that are not valid UTF-8 become U+FFFD."""
        if not self.is_byte_level:
            return self.decode(ids)[len(self.decode(self.encode(text))) :]
        encoded = "".join(self._tokens.get(i, "") for i in ids)  # one character for each byte
        return self.codec.decoder.decode([encoded[len(text.encode()) :]])

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
        text = self.codec.normalizer.normalize_str(text) if self.codec.normalizer else text
        words = [text]
        if self.codec.pre_tokenizer:
            words = [word for word, _ in self.codec.pre_tokenizer.pre_tokenize_str(text)]
        return [part for word in words for part in re.findall("▁+[^▁]*|[^▁]+", word)]

    @cached_property
    def _sorted_tokens(self) -> list[str]:
        """The tokens of texts: no special tokens, and no bytes of SentencePiece."""
        special = {self.eos_id, *self.codec.get_added_tokens_decoder()}
        byte = re.compile("<0x[0-9A-F]{2}>")
        return sorted(token for token, i in self.vocabulary.items() if i not in special and not byte.fullmatch(token))

    def _split(self, word: str) -> list[int]:
        return [token.id for token in self.codec.model.tokenize(word)]


@lru_cache(maxsize=2)  # a vocabulary of 262,144 tokens is parsed in seconds
def _load(codec: str, settings: str) -> Tokenizer:
    return Tokenizer(Codec.from_str(codec), json.loads(settings))


def _byte_level(model: models.BPE) -> Codec:
    codec = Codec(model)
    codec.pre_tokenizer, codec.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return codec
