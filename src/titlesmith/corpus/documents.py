"""Documents: the token ids of a split as one memory-mapped array."""

from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.runs import replacing

CHUNK = 65536  # documents scanned at a time


class Documents:
    """The documents of one split: ``<split>.bin`` with the ids, ``<split>.idx`` with the start of each document.

    The array of ids is one end of text, then each document followed by an end of text. Both files are memory-mapped.

    Parameters
    ----------
    path
        ``<split>.bin``.
    tokenizer
        The tokenizer of the ids.
    has_prompt
        Whether documents have a prompt, which the loss does not count.
    separator
        The ids after the prompt; the last occurrence in a document counts. Default: a newline.
    context
        The maximum length of documents that were cut, without their end of text; 0 if none was cut.
    num_start
        How many ids begin every document alike, so that the loss does not count them.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer,
        has_prompt: bool,
        separator: Sequence[int] = (),
        context: int = 0,
        num_start: int = 0,
    ):
        self.path, self.tokenizer, self.has_prompt = path, tokenizer, has_prompt
        self.context, self.num_start = context, num_start
        self.separator = np.array(separator or [tokenizer.newline_id])
        # Plain arrays over the maps, because slicing a memmap takes as long as packing a document
        self.ids = np.asarray(np.memmap(path, dtype(len(tokenizer)), mode="r"))
        self.starts = np.asarray(np.memmap(path.with_suffix(".idx"), np.uint64, mode="r"))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """Ids of document ``i`` with the end of text after it, shape (tokens,)."""
        return self.ids[int(self.starts[i]) : int(self.starts[i + 1])].astype(np.int32)

    def subset(self, chosen: np.ndarray) -> "Documents":
        """The documents with these indices; their ids are in memory unless they are all."""
        if len(chosen) == len(self):
            return self
        part, documents = copy(self), [self[i] for i in chosen]
        part.ids = np.concatenate([[self.tokenizer.eos_id], *documents]).astype(self.ids.dtype)
        part.starts = np.cumsum([1, *map(len, documents)], dtype=np.uint64)
        return part

    @property
    def target_tokens(self) -> int:
        """The number of ids that the loss counts, in all documents."""
        starts = np.asarray(self.starts, np.int64)
        total = len(self.ids) - 1 - (np.count_nonzero(np.diff(starts) > self.context) if self.context else 0)
        if not self.has_prompt:
            total -= self.num_start * len(self)
        else:
            for first in range(0, len(self), CHUNK):
                bounds = starts[first : first + CHUNK + 1]
                completions = self._after_separators(self.ids[bounds[0] : bounds[-1]]) + bounds[0]
                last = completions[np.searchsorted(completions, bounds[1:], "right") - 1]
                total -= int((last - bounds[:-1]).sum())
        return total

    def loss_mask(self, document: np.ndarray) -> np.ndarray:
        """Which ids of a document the loss counts, float32, shape (tokens,): those of its text, or of its completion.

        The end of text after a document that was cut does not count, because the text did not end there.
        """
        mask = np.ones(len(document), np.float32)
        mask[: self._after_separators(document)[-1] if self.has_prompt else self.num_start] = 0
        if 0 < self.context < len(document):
            mask[-1] = 0
        return mask

    def _after_separators(self, ids: np.ndarray) -> np.ndarray:
        """Positions after each separator."""
        size = len(self.separator)
        return np.flatnonzero((sliding_window_view(ids, size) == self.separator).all(axis=1)) + size


def dtype(size: int) -> type:
    """The smallest unsigned type for ids of a vocabulary of ``size`` tokens."""
    return np.uint16 if size <= 2**16 else np.uint32


class DocumentWriter:
    """Writes ``<split>.bin`` (``path``) and ``<split>.idx``, batch by batch, in a ``with`` block."""

    def __init__(self, path: Path, tokenizer: Tokenizer):
        self._eos_id, self._dtype = tokenizer.eos_id, dtype(len(tokenizer))
        self._files = ExitStack()
        self._ids, self._starts = (
            self._files.enter_context(self._files.enter_context(replacing(p)).open("wb"))
            for p in (path, path.with_suffix(".idx"))
        )
        self._next_start = 1
        np.array([self._eos_id], self._dtype).tofile(self._ids)
        np.array([self._next_start], np.uint64).tofile(self._starts)

    def __enter__(self) -> "DocumentWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)

    def append(self, documents: list[list[int]]) -> None:
        """Writes documents, lists of ids, each followed by an end of text."""
        sizes = [len(ids) + 1 for ids in documents]
        flat = chain.from_iterable((*ids, self._eos_id) for ids in documents)
        np.fromiter(flat, self._dtype, sum(sizes)).tofile(self._ids)
        (self._next_start + np.cumsum(sizes, dtype=np.uint64)).tofile(self._starts)
        self._next_start += sum(sizes)
