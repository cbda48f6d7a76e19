"""Documents: the token ids of a split as one memory-mapped array."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.runs import replacing

CHUNK = 65536  # documents scanned at a time


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
        self.separator = np.array(separator or [tokenizer.newline_id])
        # As plain arrays over the maps, because each slice of a memmap costs the time of packing a document
        self.ids = np.asarray(np.memmap(path, dtype(len(tokenizer)), mode="r"))
        self.starts = np.asarray(np.memmap(path.with_suffix(".idx"), np.uint64, mode="r"))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """Ids of document ``i`` with the end of text behind it, shape (tokens,)."""
        return self.ids[int(self.starts[i]) : int(self.starts[i + 1])].astype(np.int32)

    @property
    def target_tokens(self) -> int:
        """How many ids of all documents the loss counts."""
        starts = np.asarray(self.starts, np.int64)
        total = len(self.ids) - 1 - (np.count_nonzero(np.diff(starts) > self.context) if self.context else 0)
        if self.has_prompt:
            for first in range(0, len(self), CHUNK):
                bounds = starts[first : first + CHUNK + 1]
                begins = self._begins(self.ids[bounds[0] : bounds[-1]]) + bounds[0]
                total -= int((begins[np.searchsorted(begins, bounds[1:], "right") - 1] - bounds[:-1]).sum())
        return total

    def loss_mask(self, document: np.ndarray) -> np.ndarray:
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
        self._end, self._kind = tokenizer.eos_id, dtype(len(tokenizer))
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
