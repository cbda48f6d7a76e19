"""Rows: the documents of a split side by side, packed to train on, or each on its own to be measured."""

import math
from collections.abc import Iterator
from itertools import count

import numpy as np

from titlesmith.corpus.tokens import Documents

CHUNK = 2**16  # documents that are packed together


class Rows:
    """The train split as rows of equal length, a function of the step alone, so that a training resumes exactly.

    Documents are shuffled anew for each epoch and packed: a row starts with an end of text, and a document goes into
    the fullest row that has room for it (best fit), so that rows are nearly full and a document is learned whole, once
    an epoch. One that is longer than a row fills rows of its own, and its end goes where there is room. ``rows[step]``
    are the rows of a step, counted from one: ids (batch, block + 1) and which predictions are learned (batch, block).

    Attributes
    ----------
    epoch
        Learned predictions an epoch.
    count
        Rows in the first epoch; others differ by a few.
    """

    def __init__(self, documents: Documents, batch: int, block: int, seed: int):
        self.documents, self.batch, self.block, self.seed = documents, batch, block, seed
        self.epoch = documents.learned_tokens
        self._begin()
        self.count = sum(len(rows) for rows in map(self._pack, *self._chunks(0)))

    def _begin(self) -> None:
        self._packed = self._all()
        self._first, self._rows = 0, []  # number of the first row that is held; rows as lists of pieces

    def _all(self) -> Iterator[list]:
        for epoch in count():
            yield from map(self._pack, *self._chunks(epoch))

    def _chunks(self, epoch: int) -> tuple[list, list]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.documents))
        chunks = np.array_split(order, math.ceil(len(order) / CHUNK))
        return chunks, [[self.seed, epoch, i] for i in range(len(chunks))]

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = (step - 1) * self.batch
        if first < self._first:
            self._begin()
        while len(self._rows) < first - self._first + self.batch:
            behind = min(first - self._first, len(self._rows))
            self._rows, self._first = self._rows[behind:] + next(self._packed), self._first + behind
        at = first - self._first
        ids, learned = zip(*map(self._fill, self._rows[at : at + self.batch]), strict=True)
        return np.stack(ids), np.stack(learned)

    def _pack(self, order: np.ndarray, seed: list[int]) -> list[list[tuple[int, int, int]]]:
        """Rows as pieces (document, start, end) of at most ``block`` tokens in all, from lengths alone."""
        starts = self.documents.starts
        rows, rooms, open_rows = [], 0, {}  # rooms: bit r is set where a row has room for r more tokens
        for i in map(int, order):
            length, start = int(starts[i + 1] - starts[i]), 0
            while length - start > self.block:
                rows.append([(i, start, start + self.block)])
                start += self.block
            wanted = length - start
            fitting = 0 if start else rooms >> wanted  # what goes on begins a row, behind the token before it
            if fitting:
                room = wanted + (fitting & -fitting).bit_length() - 1
                row = open_rows[room].pop()
                if not open_rows[room]:
                    rooms &= ~(1 << room)
            else:
                room, row = self.block, []
                rows.append(row)
            row.append((i, start, length))
            if room > wanted:
                open_rows.setdefault(room - wanted, []).append(row)
                rooms |= 1 << (room - wanted)
        if self.documents.has_prompt:  # a long prompt can fill rows with nothing to learn
            rows = [row for row in rows if len(row) > 1 or self._fill(row)[1].any()]
        # The last rows of a chunk are the least full: they are spread over it.
        np.random.default_rng(seed).shuffle(rows)
        return rows

    def _fill(self, row: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.full(self.block + 1, self.documents.tokenizer.end, np.int32)
        learned, at = np.zeros(self.block, np.float32), 0
        whole = not self.documents.has_prompt and not self.documents.context  # every id of a document is learned
        for i, start, end in row:
            document = self.documents[i]
            if start:
                ids[at] = document[start - 1]
            ids[at + 1 : at + 1 + end - start] = document[start:end]
            learned[at : at + end - start] = 1 if whole else self.documents.learned(document)[start:end]
            at += end - start
        return ids, learned


def padded(
    documents: Documents, context: int, tokens: int = 4096, chosen: np.ndarray | None = None
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Documents (all, or the ``chosen`` ones) of like length side by side, at most ``tokens`` ids a batch.

    Gives the numbers of the documents beside their rows, which are as in `train`, cut at the context.
    """
    lengths = np.minimum(np.diff(documents.starts.astype(np.int64)), context)
    chosen = np.arange(len(documents)) if chosen is None else chosen
    batch: list[int] = []
    for i in chosen[np.argsort(lengths[chosen], kind="stable")].tolist():
        if batch and (len(batch) + 1) * lengths[i] > tokens:
            yield batch, *_side_by_side(documents, batch, lengths)
            batch = []
        batch.append(i)
    if batch:
        yield batch, *_side_by_side(documents, batch, lengths)


def _side_by_side(documents: Documents, batch: list[int], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = max(lengths[i] for i in batch)
    ids = np.full((len(batch), width + 1), documents.tokenizer.end, np.int32)
    learned = np.zeros((len(batch), width), np.float32)
    for row, i in enumerate(batch):
        document = documents[i]
        ids[row, 1 : lengths[i] + 1] = document[: lengths[i]]
        learned[row, : lengths[i]] = documents.learned(document)[: lengths[i]]
    return ids, learned
