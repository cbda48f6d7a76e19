"""Rows: the documents of a split packed to train on, or each on its own to be measured."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import accumulate, chain, count, zip_longest

import numpy as np

from titlesmith.corpus.documents import Documents

CHUNK = 2**16  # documents that are packed together
NEAR = 4096  # documents in the order of an epoch among which like beginnings are looked for
DEPTH = 16  # tokens of a beginning that are compared
MOST = 64  # documents that go together at most, so that short ones in long rows are packed in linear time


@dataclass(frozen=True)
class Batch:
    """Rows of places, each of which holds an id and reads the places on its path.

    Where documents stand apart (Krell et al. 2021), those of a row are a tree, depth first: what several of them begin
    with is there once, and each is read as if it were alone. On the path of place ``j`` are the places ``i`` with
    ``i <= j < until[i]``.

    Attributes
    ----------
    ids, positions, until
        Of each place: its id, how many places are before it on its path, and the first place behind all whose path it
        is on; shape (rows, block), int32.
    places, labels, weights
        Predictions: the place of the row that makes it, the id to come, and how many documents learn it there, float32;
        shape (rows, predictions), filled up with weights of zero. No other prediction is there twice.
    """

    ids: np.ndarray
    positions: np.ndarray
    until: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def split(self, parts: int) -> "list[Batch]":
        """So many batches, one after the other, of as many rows each, or one more in the first ones."""
        arrays = (np.array_split(getattr(self, field.name), parts) for field in fields(self))
        return [Batch(*some) for some in zip(*arrays, strict=True)]


class Rows:
    """The train split as rows of equal length, a function of the step alone, so that a training resumes exactly.

    Documents are shuffled anew for each epoch and packed: each goes into the fullest row that has room for it (best
    fit), so that rows are nearly full and a document is learned whole, once an epoch. Where they stand apart, some that
    begin alike and are near each other in the order of the epoch go together, because a row holds what they begin with
    once. A document that is longer than a row fills rows of its own, and its end goes where there is room.
    ``rows[step]`` is the `Batch` of a step, counted from one.

    Parameters
    ----------
    documents
        The split.
    batch, block
        Rows a step, places a row.
    seed
        Decides the order.
    apart
        Whether a place reads its own document alone; else it reads all that is before it in the row.

    Attributes
    ----------
    epoch
        Learned predictions an epoch.
    count
        Rows in the first epoch; others differ by a few.
    """

    def __init__(self, documents: Documents, batch: int, block: int, seed: int, apart: bool):
        self.documents, self.batch, self.block, self.seed, self.apart = documents, batch, block, seed, apart
        self.epoch = documents.target_tokens
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

    def __getitem__(self, step: int) -> Batch:
        first = (step - 1) * self.batch
        if first < self._first:
            self._begin()
        while len(self._rows) < first - self._first + self.batch:
            behind = min(first - self._first, len(self._rows))
            self._rows, self._first = self._rows[behind:] + next(self._packed), self._first + behind
        at = first - self._first
        filled = [*zip(*map(self._fill, self._rows[at : at + self.batch]), strict=True)]
        predictions = (np.array([*zip_longest(*some, fillvalue=0)], some[0].dtype).T for some in filled[3:])
        return Batch(*map(np.stack, filled[:3]), *predictions)

    def _groups(self, order: np.ndarray) -> list[list[tuple[list[int], int]]]:
        """Ways to divide the documents into such as go into one row, with the room that these take there."""
        starts, ends = (self.documents.starts[some].astype(np.int64) for some in (order, order + 1))
        lengths = ends - starts
        if not self.apart:
            return [[([i], length) for i, length in zip(order.tolist(), lengths.tolist(), strict=True)]]
        place = np.arange(DEPTH)
        read = place < lengths[:, None] - 1  # all but a document's last id
        begins = np.where(read, self.documents.ids[np.where(read, starts[:, None] + place, 0)].astype(np.int64), -1)
        near = np.arange(len(order)) // NEAR
        alike = np.lexsort([*begins.T[::-1], near])
        begins, near = begins[alike], near[alike]
        same = (begins[1:] == begins[:-1]) & (begins[1:] >= 0) & (near[1:] == near[:-1])[:, None]
        shared = [0, *np.logical_and.accumulate(same, axis=1).sum(axis=1).tolist()]
        order, lengths = order[alike], (lengths[alike] - 1).tolist()
        # Whether small groups fill what large ones leave depends on the corpus: what packs better is seen afterwards
        ways = (_cut(lengths, shared, self.block - 1, filled) for filled in (True, False))
        groups = [[(order[first:end].tolist(), places) for first, end, places in way] for way in ways]
        # The largest first: the small ones fill what is left
        return [sorted(some, key=lambda group: -group[1]) for some in groups]

    def _pack(self, order: np.ndarray, seed: list[int]) -> list[list[tuple[int, int, int]]]:
        """Rows as pieces (document, start, end) that take at most ``block`` places in all."""
        rows = min(map(self._fit, self._groups(order)), key=len)
        if self.documents.has_prompt:  # a long prompt can fill rows with nothing to learn
            rows = [row for row in rows if len(row) > 1 or any(self._fill(row)[-1])]
        # Rows of long documents and of short ones, and the last, which are the least full, are mixed
        np.random.default_rng(seed).shuffle(rows)
        return rows

    def _fit(self, groups: list[tuple[list[int], int]]) -> list[list[tuple[int, int, int]]]:
        """Rows of groups, each in the fullest row that has room for it."""
        starts = self.documents.starts
        rows, rooms, open_rows = [], 0, {}  # rooms: bit r is set where a row has room for r more places
        for group, wanted in groups:
            pieces = [(i, 0, int(starts[i + 1] - starts[i])) for i in group]
            start, (i, _, length) = 0, pieces[0]
            while length - start > self.block:
                rows.append([(i, start, start + self.block)])
                start += self.block
            if start:
                if length - start == 1 and 0 < self.documents.context < length:
                    continue  # the end of a text that was cut is not learned
                pieces, wanted = [(i, start, length)], length - start
            # What goes on begins where nothing stands before it but its own token
            fitting = 0 if start and not self.apart else rooms >> wanted
            if fitting:
                room = wanted + (fitting & -fitting).bit_length() - 1
                row = open_rows[room].pop()
                if not open_rows[room]:
                    rooms &= ~(1 << room)
            else:
                room, row = self.block - self.apart, []  # apart, one place is for the end of text before documents
                rows.append(row)
            row += pieces
            if room > wanted:
                open_rows.setdefault(room - wanted, []).append(row)
                rooms |= 1 << (room - wanted)
        return rows

    def _fill(self, row: list[tuple[int, int, int]]) -> list[np.ndarray]:
        """The arrays of a row of a `Batch`; predictions as many as there are."""
        documents, end_of_text = self.documents, self.documents.tokenizer.eos_id
        whole = not documents.has_prompt and not documents.context  # every id of a document is learned
        texts, learned = [], []  # ids behind the one before them; which of these the loss counts
        for i, start, end in row:
            document = documents[i]
            texts.append([int(document[start - 1]) if start else end_of_text, *document[start:end].tolist()])
            learned.append([1.0] * (end - start) if whole else documents.loss_mask(document)[start:end].tolist())
        if self.apart:
            ids, positions, until, *predictions = _tree(sorted(zip(texts, learned, strict=True)))
        else:
            ids = [texts[0][0], *chain.from_iterable(text[1:] for text in texts)]
            predictions = [range(len(ids) - 1), ids[1:], [*chain.from_iterable(learned)]]
            ids, positions, until = ids[:-1], range(self.block), [self.block] * self.block
        rest = range(len(ids), self.block)  # in a tree, places that read themselves alone
        ids = ids + [end_of_text] * len(rest)
        if self.apart:
            positions, until = positions + [0] * len(rest), until + [at + 1 for at in rest]
        integers = (ids, positions, until, *predictions[:2])
        return [*(np.array(numbers, np.int32) for numbers in integers), np.array(predictions[2], np.float32)]


def _cut(lengths: list[int], shared: list[int], room: int, filled: bool) -> Iterator[tuple[int, int, int]]:
    """Cuts documents in order into groups that fit into a row, where the fewest places are lost by it.

    Documents that share nothing are always apart.

    Parameters
    ----------
    lengths, shared
        Places of each document, and how many of them are also those of the document before it. A cut between the two
        loses these.
    room
        Places of a row. A document that takes more is a group of its own.
    filled
        Whether others fill what a group leaves of its row. A rest that nine documents of ten are too long for is lost
        anyway; if not filled, a longer one costs as much as that, so that few groups have one.

    Yields
    ------
    tuple
        Number of the first document of a group, number behind its last, and its places; the last group first.
    """
    places = [0, *accumulate(length - common for length, common in zip(lengths, shared, strict=True))]
    short, lost, firsts = float(np.quantile(lengths, 0.1)), [0.0], [0]
    longer = 0.0 if filled else short
    for end in range(1, len(places)):
        least = math.inf
        for start in range(end - 1, max(end - 1 - MOST, -1), -1):
            rest = room - (places[end] - places[start] + shared[start])
            if rest < 0 and start < end - 1:
                break
            loss = lost[start] + shared[start] + max(rest if rest < short else longer, 0)
            if loss <= least:
                least, first = loss, start
            if not shared[start]:
                break
        lost.append(least)
        firsts.append(first)
    while end := len(firsts) - 1:
        first = firsts[end]
        yield first, end, places[end] - places[first] + shared[first]
        del firsts[first + 1 :]


def _tree(texts: list[tuple[list[int], list[float]]]) -> tuple[list, ...]:
    """The lists of a row of a `Batch` from texts, in order, and what of each behind its first id the loss counts."""
    ids, positions, until, places, labels, weights = [], [], [], [], [], []
    path, edges, last = [], [], []  # places and predictions of the text before, and its ids
    for text, learned in texts:
        common, most = 0, min(len(text), len(last))
        while common < most and text[common] == last[common]:
            common += 1
        for place in path[common:]:
            until[place] = len(ids)
        # A text's last id is predicted, and not read
        path, edges, last = path[:common], edges[: max(0, common - 1)], text
        for edge, weight in zip(edges, learned, strict=False):
            weights[edge] += weight
        first, new = len(path), range(len(ids), len(ids) + len(text) - 1 - len(path))
        path += new
        ids += text[first:-1]
        positions += range(first, len(text) - 1)
        until += [0] * len(new)
        first, new = len(edges), range(len(places), len(places) + len(learned) - len(edges))
        edges += new
        places += path[first:]
        labels += text[first + 1 :]
        weights += learned[first:]
    for place in path:
        until[place] = len(ids)
    return ids, positions, until, places, labels, weights


def ahead(rows: Rows, step: int) -> Iterator[tuple[int, Batch]]:
    """Steps from ``step`` on and their batches, the next one packed while the one before it trains."""
    pool = ThreadPoolExecutor(1)
    try:
        coming = pool.submit(rows.__getitem__, step)
        for number in count(step):
            batch, coming = coming.result(), pool.submit(rows.__getitem__, number + 1)
            yield number, batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def padded(
    documents: Documents, context: int, tokens: int = 4096, chosen: np.ndarray | None = None
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Documents (all, or the ``chosen`` ones) of like length side by side, at most ``tokens`` ids a batch.

    Gives the numbers of the documents beside their rows, which are as `Engine.losses` takes them, cut at the context.
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
    ids = np.full((len(batch), width + 1), documents.tokenizer.eos_id, np.int32)
    learned = np.zeros((len(batch), width), np.float32)
    for row, i in enumerate(batch):
        document = documents[i]
        ids[row, 1 : lengths[i] + 1] = document[: lengths[i]]
        learned[row, : lengths[i]] = documents.loss_mask(document)[: lengths[i]]
    return ids, learned
