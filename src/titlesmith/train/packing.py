"""Packed rows of documents for training, and batches of documents of similar length for measuring."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import count, islice

import numpy as np

from titlesmith.corpus.documents import Documents

CHUNK = 2**16  # documents that are packed together

Piece = tuple[int, int, int]  # number of a document, first and end of its predicted ids


@dataclass(frozen=True)
class Batch:
    """Rows of tokens and what each token is trained to predict; all arrays have shape (rows, block).

    A document begins where ``position_ids``, positions in a document, are 0; without document masks, a row counts as
    one document. Padding is one more document.
    """

    ids: np.ndarray  # int32
    position_ids: np.ndarray  # int32
    labels: np.ndarray  # the next id of each token, int32
    weights: np.ndarray  # of each prediction in the loss, float32; 0 in prompts and padding

    def split(self, parts: int) -> "list[Batch]":
        """The batch in ``parts`` consecutive batches of equally many rows, up to one."""
        arrays = (np.array_split(getattr(self, field.name), parts) for field in fields(self))
        return [Batch(*some) for some in zip(*arrays, strict=True)]


class PackedDataset:
    """Documents packed into rows of equal length: a function of seed and step, so that training resumes exactly.

    In each epoch the documents are shuffled, divided into chunks, and each chunk is packed by best-fit decreasing (Ding
    et al. 2024): in order of decreasing length, each into the fullest row that has room for it. Every document is
    learned once an epoch. A document longer than a row fills rows; its rest is packed as a document that begins with
    the last id of the row before.

    ``batch`` is in rows and ``block`` in tokens. With ``mask_documents``, position ids restart with each document, so
    that attention is masked to it; else a token attends to all tokens before it in the row.

    Attributes
    ----------
    num_targets, num_rows
        Predictions that the loss counts, an epoch; rows in the first epoch. Other epochs differ by a few rows.
    """

    def __init__(self, documents: Documents, batch: int, block: int, seed: int, mask_documents: bool):
        self.documents, self.batch, self.block, self.seed = documents, batch, block, seed
        self.mask_documents, self.num_targets = mask_documents, documents.target_tokens
        self.num_rows = sum(map(len, self._epoch(0)))

    def batches(self, step: int) -> Iterator[Batch]:
        """The batches of the steps from ``step`` on, counted from 1."""
        rows = (row for epoch in count() for chunk in self._epoch(epoch) for row in chunk)
        rows = islice(rows, (step - 1) * self.batch, None)
        while True:
            filled = [self._fill(row) for row in islice(rows, self.batch)]
            yield Batch(*map(np.stack, zip(*filled, strict=True)))

    def __getitem__(self, step: int) -> Batch:
        return next(self.batches(step))

    def _epoch(self, epoch: int) -> Iterator[list[list[Piece]]]:
        """The rows of an epoch, chunk by chunk, in random order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.documents))
        for number, chunk in enumerate(np.array_split(order, math.ceil(len(order) / CHUNK))):
            rows, generator = self._pack(chunk), np.random.default_rng([self.seed, epoch, number])
            for row in rows:
                generator.shuffle(row)  # else later documents of a row would be shorter ones
            generator.shuffle(rows)
            yield rows

    def _pack(self, chunk: np.ndarray) -> list[list[Piece]]:
        """Rows of at most ``block`` predicted ids, by best-fit decreasing."""
        rows, pieces = [], []
        # Cut what is longer than a row; a long prompt can fill a row, which would have nothing to learn
        for i, (first, last) in zip(chunk.tolist(), self.documents.targets[chunk].tolist(), strict=True):
            ends = ((start, min(start + self.block, last)) for start in range(0, last, self.block))
            pieces += [(i, start, end) for start, end in ends if end > first]
        pieces.sort(key=lambda piece: piece[1] - piece[2])
        # rooms[n]: rows with room for n more ids; bit n of `sizes` is set if there are any
        rooms, sizes = [[] for _ in range(self.block + 1)], 0
        for piece in pieces:
            size = piece[2] - piece[1]
            if fitting := sizes >> size:
                room = size + (fitting & -fitting).bit_length() - 1  # the lowest bit: the fullest row
                row = rooms[room].pop()
                if not rooms[room]:
                    sizes &= ~(1 << room)
            else:
                room, row = self.block, []
                rows.append(row)
            row.append(piece)
            if room > size:
                rooms[room - size].append(row)
                sizes |= 1 << (room - size)
        return rows

    def _fill(self, row: list[Piece]) -> list[np.ndarray]:
        """The arrays of one row of a `Batch`."""
        eos = self.documents.tokenizer.eos_id
        ids, labels = np.full((2, self.block), eos, np.int32)
        position_ids, weights = np.arange(self.block, dtype=np.int32), np.zeros(self.block, np.float32)
        first = 0
        for i, start, end in row:
            last, document = first + end - start, self.documents[i]
            # A document is read after an end of text, and its own end of text is predicted
            ids[first], ids[first + 1 : last] = document[start - 1] if start else eos, document[start : end - 1]
            labels[first:last], weights[first:last] = document[start:end], self.documents.loss_mask(i)[start:end]
            if self.mask_documents:
                position_ids[last:] -= position_ids[last : last + 1]
            first = last
        return [ids, position_ids, labels, weights]


def prefetch(dataset: PackedDataset, step: int) -> Iterator[tuple[int, Batch]]:
    """Steps from ``step`` on and their batches; the next batch is packed while the current one trains."""
    pool, batches = ThreadPoolExecutor(1), dataset.batches(step)
    try:
        coming = pool.submit(next, batches)
        for number in count(step):
            batch, coming = coming.result(), pool.submit(next, batches)
            yield number, batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def padded_batches(
    documents: Documents, context: int, tokens: int, chosen: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Documents of similar length in batches of at most ``tokens`` ids, cut at the context.

    Yields indices of documents, their ids after an end of text, (rows, tokens + 1), and weights, (rows, tokens).
    """
    lengths = np.minimum(np.diff(documents.starts), context)
    chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
    while len(chosen):
        fits = lengths[chosen] * np.arange(1, len(chosen) + 1) <= tokens  # the first ones, as lengths ascend
        batch, chosen = np.split(chosen, [max(1, np.count_nonzero(fits))])
        ids = np.full((len(batch), lengths[batch[-1]] + 1), documents.tokenizer.eos_id, np.int32)
        weights = np.zeros((len(batch), lengths[batch[-1]]), np.float32)
        for row, i in enumerate(batch):
            ids[row, 1 : lengths[i] + 1] = documents[i][: lengths[i]]
            weights[row, : lengths[i]] = documents.loss_mask(i)[: lengths[i]]
        yield batch, ids, weights
