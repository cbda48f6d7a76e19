"""Tokens: text as ids of a byte-level BPE in GPT-2's file format, and documents as one memory-mapped array.

Vocabularies of other forms are in `titlesmith.corpus.pretrained`.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import local

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from tokenizers import Tokenizer as Codec
from tokenizers import decoders, models, pre_tokenizers, trainers

from titlesmith.errors import RequestError
from titlesmith.runs.record import replacing

END = "<|endoftext|>"
CHUNK = 65536  # documents looked at together
FILES = ("encoder.json", "vocab.bpe")
MARKERS = {"ids": ("", "\n", ""), "text": ("<|startoftext|>", "<|sep|>", END)}  # start, separator, stop


class Tokenizer:
    """Byte-level BPE (Radford et al. 2019), read and written as OpenAI's ``encoder.json`` and ``vocab.bpe``.

    Text never encodes to the end-of-text id: a document that spells ``<|endoftext|>`` is spelled out in bytes.

    Attributes
    ----------
    end
        The id that delimits documents (50256 in GPT-2).
    newline
        The id of a single newline, which stands between a prompt and its completion.
    before
        Ids with which the model expects every document to begin, behind the end of the one before.
    """

    before: tuple[int, ...] = ()

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
        self.vocabulary, self.merges, self._threads = vocabulary, merges, local()
        self.end, self.newline = vocabulary[END], vocabulary["Ċ"]
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
        if self._widths[_flat(found, np.int64)].sum() != sum(len(text.encode()) for text in texts):
            raise RequestError("model: its vocabulary lacks bytes of these texts: it is no byte-level vocabulary")
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self._codec.decode(list(ids), skip_special_tokens=False)

    def covers(self, text: str) -> tuple[list[int], dict[tuple[int, ...], list[int]]]:
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

    def rest(self, text: str, ids: Iterable[int]) -> str:
        """What ids say behind ``text``, with which they begin; bytes that are no UTF-8 become U+FFFD."""
        if not self.is_byte_level:
            return self.decode(ids)[len(self.decode(self.encode(text))) :]
        said = "".join(self._pieces.get(i, "") for i in ids)  # of a byte each, so that no character is cut
        return self._codec.decoder.decode([said[len(text.encode()) :]])

    def goes_beyond(self, text: str, ids: list[int]) -> bool:
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
        return sorted(piece for piece, number in self.vocabulary.items() if number != self.end)

    def _split(self, word: str) -> list[int]:
        return [token.id for token in self._codec.model.tokenize(word)]

    def prompt(self, text: str, has_prompt: bool) -> list[int]:
        """Ids that open a document: the end of text before it, and what is given of it."""
        return [self.end, *self.encode(text), *([self.newline] if has_prompt else [])]

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


class Layout:
    """How a document stands in ids: a start, the prompt, a separator, the completion, a stop.

    Between documents there is the vocabulary's end-of-text id in any case, so that engines need not know the layout.

    Parameters
    ----------
    tokenizer
        What the ids mean.
    delimiters
        ``ids``: nothing but a newline id between prompt and completion. ``text``: the markers of `MARKERS`, spelled in
        the tokens of text, as gpt-2-simple's CSV files and the reports built on them have them. ``chat``: what the
        model's own chat template has.
    has_prompt
        Whether documents have a prompt part.
    """

    def __init__(self, tokenizer: "Tokenizer", delimiters: str, has_prompt: bool):
        self.tokenizer, self.has_prompt = tokenizer, has_prompt
        self.markers = tokenizer.chat() if delimiters == "chat" else MARKERS[delimiters]
        start, separator, stop = self.markers
        # Each on its own, so that a marker has the same ids whatever stands beside it
        self.start, self.stop = tokenizer.marker(start), tokenizer.marker(stop)
        self.separator = tokenizer.marker(separator) if has_prompt else []
        if tuple(self.start[: len(tokenizer.before)]) != tokenizer.before:
            self.start = [*tokenizer.before, *self.start]

    def join(self, prompt: str, completion: str) -> str:
        """A document as text."""
        start, separator, stop = self.markers
        return start + (prompt + separator if self.has_prompt else "") + completion + stop

    def opening(self, prompt: str, prefix: str = "") -> list[int]:
        """Ids from which a model goes on: the end of text before a document, and what is given of it.

        Parameters
        ----------
        prompt
            The prompt part; empty where documents have none.
        prefix
            The beginning of the completion.
        """
        encode = self.tokenizer.encode
        return [self.tokenizer.end, *self.start, *encode(prompt), *self.separator, *encode(prefix)]

    def text(self, ids: Iterable[int]) -> str:
        """The completion that a model wrote, up to the marker of its end where the layout has one."""
        return self.until_stop(self.tokenizer.decode(ids))[0]

    def until_stop(self, text: str) -> tuple[str, bool]:
        """A text up to the marker of its end, and whether it has one."""
        before, found, _ = text.partition(self.markers[2]) if self.markers[2] else (text, "", "")
        return before, bool(found)


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
        Whether documents have a prompt part.
    separator
        The ids that end it, where they stand last; the newline where it is left out.
    context
        The most ids of a document in front of its end of text; one with as many has been cut. 0 where none was.
    """

    def __init__(
        self, path: Path, tokenizer: Tokenizer, has_prompt: bool, separator: Sequence[int] = (), context: int = 0
    ):
        self.path, self.tokenizer, self.has_prompt, self.context = path, tokenizer, has_prompt, context
        self.separator = np.array(separator or [tokenizer.newline])
        # As plain arrays over the maps, because each slice of a memmap costs the time of packing a document
        self.ids = np.asarray(np.memmap(path, dtype(len(tokenizer)), mode="r"))
        self.starts = np.asarray(np.memmap(path.with_suffix(".idx"), np.uint64, mode="r"))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """Ids of document ``i`` with the end of text behind it, shape (tokens,)."""
        return self.ids[int(self.starts[i]) : int(self.starts[i + 1])].astype(np.int32)

    @property
    def learned_tokens(self) -> int:
        """How many ids of all documents the loss counts."""
        starts = np.asarray(self.starts, np.int64)
        total = len(self.ids) - 1 - (np.count_nonzero(np.diff(starts) > self.context) if self.context else 0)
        if self.has_prompt:
            for first in range(0, len(self), CHUNK):
                bounds = starts[first : first + CHUNK + 1]
                begins = self._begins(self.ids[bounds[0] : bounds[-1]]) + bounds[0]
                total -= int((begins[np.searchsorted(begins, bounds[1:], "right") - 1] - bounds[:-1]).sum())
        return total

    def learned(self, document: np.ndarray) -> np.ndarray:
        """Which ids of a document the loss counts, shape (tokens,): all, or those of the completion.

        The end of text behind a document that was cut is not learned: the text did not end there.
        """
        mask = np.ones(len(document), np.float32)
        if self.has_prompt:
            mask[: self._begins(document)[-1]] = 0
        if 0 < self.context < len(document):
            mask[-1] = 0
        return mask

    def _begins(self, ids: np.ndarray) -> np.ndarray:
        """Places behind each separator."""
        size = len(self.separator)
        return np.flatnonzero((sliding_window_view(ids, size) == self.separator).all(axis=1)) + size


def dtype(size: int) -> type:
    """The smallest unsigned type for a vocabulary of ``size`` ids."""
    return np.uint16 if size <= 2**16 else np.uint32


def _flat(documents: list[list[int]], kind: type) -> np.ndarray:
    return np.fromiter(chain.from_iterable(documents), kind, sum(map(len, documents)))


class Writer:
    """Writes ``<split>.bin`` and ``<split>.idx`` batch by batch.

    Parameters
    ----------
    path
        ``<split>.bin``; both files get their names by `replacing`, in a ``with`` block around the writer.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer):
        self._end, self._kind = tokenizer.end, dtype(len(tokenizer))
        self._files = ExitStack()
        self._ids, self._starts = (
            self._files.enter_context(self._files.enter_context(replacing(p)).open("wb"))
            for p in (path, path.with_suffix(".idx"))
        )
        self._next = 1
        np.array([self._end], self._kind).tofile(self._ids)
        np.array([self._next], np.uint64).tofile(self._starts)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)

    def append(self, documents: list[list[int]]) -> None:
        """Writes documents, lists of ids, with an end of text behind each."""
        flat = _flat([[*ids, self._end] for ids in documents], self._kind)
        flat.tofile(self._ids)
        starts = self._next + np.cumsum([len(ids) + 1 for ids in documents], dtype=np.uint64)
        starts.tofile(self._starts)
        self._next += len(flat)


def write(path: Path, documents: list[list[int]], tokenizer: Tokenizer) -> None:
    """Writes all documents of a split."""
    with Writer(path, tokenizer) as writer:
        writer.append(documents)
