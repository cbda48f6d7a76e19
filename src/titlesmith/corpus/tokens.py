"""Tokens: text as ids of a byte-level BPE in GPT-2's file format, and documents as one memory-mapped array."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Codec
from tokenizers import decoders, models, pre_tokenizers, trainers

from titlesmith.run import replacing

END = "<|endoftext|>"
FILES = ("encoder.json", "vocab.bpe")


class Tokenizer:
    """Byte-level BPE (Radford et al. 2019), read and written as OpenAI's ``encoder.json`` and ``vocab.bpe``.

    Text never encodes to the end-of-text id: a document that spells ``<|endoftext|>`` is spelled out in bytes.

    Attributes
    ----------
    end
        The id that delimits documents (50256 in GPT-2).
    newline
        The id of a single newline, which stands between a prompt and its completion.
    """

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
        self.vocabulary, self.merges = vocabulary, merges
        self._codec = Codec(models.BPE(vocab=vocabulary, merges=merges))
        self._codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._codec.decoder = decoders.ByteLevel()
        self.end, self.newline = vocabulary[END], vocabulary["Ċ"]

    def __len__(self) -> int:
        return len(self.vocabulary)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads the two files of ``folder``."""
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

    def save(self, folder: Path) -> None:
        """Writes the two files into ``folder``."""
        with replacing(folder / FILES[0]) as temporary:
            temporary.write_text(json.dumps(self.vocabulary), "utf-8")
        with replacing(folder / FILES[1]) as temporary:
            temporary.write_text("\n".join(["#version: 0.2", *map(" ".join, self.merges), ""]), "utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._codec.encode(text).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of many texts, on all cores."""
        return [encoding.ids for encoding in self._codec.encode_batch_fast(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self._codec.decode(list(ids), skip_special_tokens=False)

    def prompt(self, text: str, has_prompt: bool) -> list[int]:
        """Ids that open a document: the end of text before it, and what is given of it."""
        return [self.end, *self.encode(text), *([self.newline] if has_prompt else [])]


class Documents:
    """The documents of one split: ``<split>.bin`` with the ids, ``<split>.idx`` with where each document starts.

    The ids are one end of text, then each document and an end of text behind it. Both arrays are memory-mapped.

    Parameters
    ----------
    path
        ``<split>.bin``.
    tokenizer
        What the ids mean.
    has_prompt
        Whether documents have a prompt part, which ends with their last newline id.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, has_prompt: bool):
        self.tokenizer, self.has_prompt = tokenizer, has_prompt
        self.ids = np.memmap(path, dtype(len(tokenizer)), mode="r")
        self.starts = np.memmap(path.with_suffix(".idx"), np.uint64, mode="r")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """Ids of document ``i`` with the end of text behind it, shape (tokens,)."""
        return self.ids[int(self.starts[i]) : int(self.starts[i + 1])].astype(np.int32)

    @property
    def learned_tokens(self) -> int:
        """How many ids of all documents the loss counts."""
        if not self.has_prompt:
            return len(self.ids) - 1
        newlines = np.flatnonzero(np.asarray(self.ids) == self.tokenizer.newline)
        ends = np.asarray(self.starts[1:], np.int64)
        return int((ends - 1 - newlines[np.searchsorted(newlines, ends) - 1]).sum())

    def learned(self, document: np.ndarray) -> np.ndarray:
        """Which ids of a document the loss counts, shape (tokens,): all, or those of the completion."""
        mask = np.ones(len(document), np.float32)
        if self.has_prompt:
            mask[: np.flatnonzero(document == self.tokenizer.newline)[-1] + 1] = 0
        return mask


def dtype(size: int) -> type:
    """The smallest unsigned type for a vocabulary of ``size`` ids."""
    return np.uint16 if size <= 2**16 else np.uint32


def write(path: Path, documents: list[list[int]], tokenizer: Tokenizer) -> None:
    """Writes documents, lists of ids without delimiters, as ``path`` (.bin) and its ``.idx``."""
    starts = np.cumsum([1] + [len(ids) + 1 for ids in documents], dtype=np.uint64)
    with replacing(path.with_suffix(".idx")) as temporary:
        starts.tofile(temporary)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.array([tokenizer.end], dtype(len(tokenizer))).tofile(file)
        for ids in documents:
            np.array([*ids, tokenizer.end], dtype(len(tokenizer))).tofile(file)
