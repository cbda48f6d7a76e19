from collections import Counter
from dataclasses import fields
from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.train import packing as rows_module
from titlesmith.train.packing import Batch, Rows, _cut, padded

END, NEWLINE = 99, 98


class Fake:
    """Documents of given lengths; ids count up, so that each can be recognized."""

    tokenizer = SimpleNamespace(eos_id=END, newline_id=NEWLINE)
    context = 0

    @property
    def has_prompt(self):
        return bool(self.prompt)

    @property
    def target_tokens(self):
        return sum(int(self.loss_mask(self[i]).sum()) for i in range(len(self)))

    def __init__(self, lengths: list[int], prompt: int = 0):
        self.prompt = prompt
        self.starts = np.cumsum([1] + [n + 1 for n in lengths])

    def __len__(self):
        return len(self.starts) - 1

    def __getitem__(self, i):
        length = self.starts[i + 1] - self.starts[i]
        return np.array([*(1000 * (i + 1) + np.arange(length - 1)), END], np.int32)

    def loss_mask(self, document):
        return (np.arange(len(document)) >= self.prompt).astype(np.float32)


LENGTHS = st.lists(st.integers(1, 40), min_size=3, max_size=30)
ALPHABETS = st.sampled_from([2, 5, 1000])  # few ids: documents begin alike, or are the same


class Alike(Fake):
    """Documents of random ids below ``alphabet``."""

    def __init__(self, lengths: list[int], alphabet: int, prompt: int = 0, context: int = 0):
        super().__init__(lengths, prompt)
        self.context = context
        self.ids = np.random.default_rng(0).integers(0, alphabet, self.starts[-1])
        self.ids[self.starts - 1] = END

    def loss_mask(self, document):
        mask = super().loss_mask(document)
        if 0 < self.context < len(document):
            mask[-1] = 0
        return mask

    def __getitem__(self, i):
        return self.ids[self.starts[i] : self.starts[i + 1]].astype(np.int32)


def learned(batch: Batch) -> Counter:
    """What a batch teaches: how often which id is to follow which ids, each prediction found through its path."""
    found = Counter()
    for ids, until, places, labels, weights in zip(
        batch.ids, batch.until, batch.places, batch.labels, batch.weights, strict=True
    ):
        for place, label, weight in zip(places, labels, weights, strict=True):
            if weight:
                path = [at for at in range(place + 1) if until[at] > place]
                found[(*ids[path].tolist(), int(label))] += int(weight)
    return found


def taught(documents: Fake, block: int) -> Counter:
    """The same from the documents, one that is longer than a row in pieces."""
    found = Counter()
    for document in (documents[i] for i in range(len(documents))):
        whole, counts = [END, *document.tolist()], documents.loss_mask(document)
        for start in range(0, len(document), block):
            for at in range(start, min(start + block, len(document))):
                if counts[at]:
                    found[tuple(whole[start : at + 2])] += 1
    return found


def epoch(rows: Rows, number: int) -> list[Batch]:
    steps = rows.count
    return [rows[number * steps + step] for step in range(1, steps + 1)]


@settings(deadline=None)
@given(LENGTHS, ALPHABETS, st.integers(8, 30), st.integers(0, 6), st.sampled_from([0, 8, 12]))
def test_apart_every_document_is_learned_once_an_epoch_as_if_it_were_alone(lengths, alphabet, block, prompt, context):
    documents, seed = Alike(lengths, alphabet, prompt, context), len(lengths)
    rows = Rows(documents, 1, block, seed, apart=True)
    wanted = taught(documents, block)
    assert sum(map(learned, epoch(rows, 0)), Counter()) == wanted
    assert wanted.total() == rows.epoch


@settings(deadline=None)
@given(LENGTHS, ALPHABETS, st.integers(8, 30), st.integers(1, 4))
def test_positions_are_those_on_the_path_and_no_prediction_is_there_twice(lengths, alphabet, block, step):
    batch = Rows(Alike(lengths, alphabet), 3, block, 1, apart=True)[step]
    assert batch.ids.shape == batch.positions.shape == batch.until.shape == (3, block)
    place = np.arange(block)
    path = (place <= place[:, None]) & (place[:, None] < batch.until[:, None])
    assert (batch.positions == path.sum(axis=2) - 1).all()
    row, which = np.nonzero(batch.weights)
    found = [*zip(row, batch.places[row, which], batch.labels[row, which], strict=True)]
    assert len(set(found)) == len(found)


@settings(deadline=None)
@given(LENGTHS, ALPHABETS, st.integers(8, 30), st.integers(1, 4), st.integers(1, 5))
def test_parts_of_a_batch_teach_the_same(lengths, alphabet, block, step, parts):
    batch = Rows(Alike(lengths, alphabet), 5, block, 1, apart=True)[step]
    assert sum(map(learned, batch.split(parts)), Counter()) == learned(batch)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(8, 30), st.integers(0, 9))
def test_not_apart_every_document_is_learned_once_an_epoch(lengths, batch, block, seed):
    documents = Fake(lengths)
    rows = Rows(documents, batch, block, seed, apart=False)
    seen, step = [], 0
    while len(seen) < 2 * rows.epoch:
        step += 1
        found = rows[step]
        assert (found.until == block).all() and (found.positions == np.arange(block)).all()
        for ids, places, labels, weights in zip(found.ids, found.places, found.labels, found.weights, strict=True):
            places, labels = places[weights > 0], labels[weights > 0]
            assert (ids[places[1:]] == labels[:-1]).all() and (np.diff(places) == 1).all()
            seen += labels.tolist()
    everything = sorted(np.concatenate([documents[i] for i in range(len(documents))]).tolist())
    assert rows.epoch == len(everything)
    assert sorted(seen[: rows.epoch]) == everything
    assert sorted(seen[rows.epoch : 2 * rows.epoch]) == everything


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 30), st.booleans())
def test_rows_are_a_function_of_the_step(lengths, batch, step, apart):
    fresh, used = (Rows(Alike(lengths, 5), batch, 16, 1, apart) for _ in range(2))
    for earlier in range(1, step + 3):
        _ = used[earlier]
    for field in fields(Batch):
        assert np.array_equal(getattr(fresh[step], field.name), getattr(used[step], field.name))


def test_a_row_starts_with_a_whole_document_behind_an_end_of_text():
    for apart in (False, True):
        rows = Rows(Alike([5, 6, 4, 7, 3], 90), 2, 16, 1, apart)
        for step in range(1, 6):
            batch = rows[step]
            assert (batch.ids[:, 0] == END).all() and (batch.positions[:, 0] == 0).all()
            assert (batch.labels[:, 0] != END).all()


def test_what_documents_begin_with_is_there_once():
    documents = Alike([2] * 4, 9)
    for i, start in enumerate(([7, 1], [7, 2], [7, 2], [8, 3])):
        documents.ids[documents.starts[i] : documents.starts[i] + 2] = start
    batch = Rows(documents, 1, 8, 1, apart=True)[1]
    assert batch.ids.tolist() == [[END, 7, 1, 2, 8, 3, END, END]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 1, 2, 0, 0]]
    assert batch.until.tolist() == [[6, 4, 3, 4, 6, 6, 7, 8]]
    found = zip(*(getattr(batch, name)[0].tolist() for name in ("places", "labels", "weights")), strict=True)
    assert [*found] == [(0, 7, 3), (1, 1, 1), (2, END, 1), (1, 2, 2), (3, END, 2), (0, 8, 1), (4, 3, 1), (5, END, 1)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=9), st.booleans())
def test_documents_are_cut_where_the_fewest_places_are_lost(documents, filled):
    lengths, room = [length for length, _ in documents], 12
    shared = [0, *(min(few, *two) for (_, few), two in zip(documents[1:], pairwise(lengths), strict=True))]
    short = np.quantile(lengths, 0.1)

    def taken(cuts):
        return [sum(lengths[first:end]) - sum(shared[first + 1 : end]) for first, end in pairwise(cuts)]

    def lost(cuts):
        longer = 0 if filled else short
        rests = [rest if rest < short else longer for rest in (room - places for places in taken(cuts))]
        return sum(shared[first] for first in cuts[:-1]) + sum(rests)

    between = range(1, len(lengths))
    free = {i for i in between if not shared[i]}
    ways = ((0, *some, len(lengths)) for n in range(len(lengths)) for some in combinations(between, n))
    ways = [cuts for cuts in ways if free <= {*cuts} and max(taken(cuts)) <= room]
    groups = [*_cut(lengths, shared, room, filled)][::-1]
    found = (0, *(end for _, end, _ in groups))
    assert found in ways and [places for *_, places in groups] == taken(found)
    assert lost(found) == min(map(lost, ways))


@pytest.mark.parametrize("apart", [False, True])
def test_a_long_document_goes_on_in_the_next_row_with_its_last_token_before_it(apart):
    documents = Alike([20], 90)
    batch, ids = Rows(documents, 2, 16, 1, apart)[1], documents[0].tolist()
    rows = {tuple(row[weight > 0].tolist()): first for row, weight, first in zip(
        batch.labels, batch.weights, batch.ids[:, 0].tolist(), strict=True
    )}  # fmt: skip
    assert rows == {tuple(ids[:16]): END, tuple(ids[16:]): ids[15]}


def test_rows_are_full_share_what_is_near_and_are_in_no_order_of_length(monkeypatch):
    generator = np.random.default_rng(1)
    documents = Alike(generator.integers(5, 25, 3000).tolist(), 30)
    places = [Rows(documents, 1, 128, 1, apart).count * 128 / len(documents.ids) for apart in (False, True)]
    monkeypatch.setattr(rows_module, "NEAR", 1)
    places.append(Rows(documents, 1, 128, 1, apart=True).count * 128 / len(documents.ids))
    assert 1.03 > places[0] > 1 > places[2] + 0.03 > places[1] + 0.06, "ends of text, and beginnings, are shared"
    rows = Rows(documents, 1, 128, 1, apart=True)
    counts = [int((rows[step].labels == END).sum()) for step in range(1, rows.count + 1)]  # of documents in a row
    assert abs(np.corrcoef(counts, range(rows.count))[0, 1]) < 0.2 and np.std(counts) > 1


def test_no_row_has_nothing_to_learn():
    cut, prompts = Alike([16] * 20, 90, context=16), Alike([32] * 20, 90, prompt=16)
    for documents, block in ((cut, 16), (prompts, 16)):
        for apart in (False, True):
            rows = Rows(documents, 1, block, 1, apart)
            assert all(rows[step].weights.any() for step in range(1, rows.count + 1))


def test_prompts_are_read_and_not_learned():
    rows = Rows(Alike([5, 5], 90, prompt=3), 1, 16, 1, apart=True)
    assert rows[1].weights.sum() == rows.epoch == 6
    assert learned(rows[1]) == taught(rows.documents, 16)


@given(LENGTHS, st.integers(3, 50), st.integers(20, 200), st.data())
def test_padded_batches_hold_every_chosen_document_once_cut_at_the_context(lengths, context, tokens, data):
    documents, found = Fake(lengths), {}
    chosen = data.draw(st.none() | st.lists(st.integers(0, len(lengths) - 1), unique=True).map(np.array))
    for which, ids, learned in padded(documents, context, tokens, chosen if chosen is None else chosen.astype(int)):
        assert ids.shape == (learned.shape[0], learned.shape[1] + 1)
        assert ids.shape[0] == 1 or learned.size <= tokens
        for i, row, mask in zip(which, ids, learned, strict=True):
            assert row[0] == END and i not in found
            found[i] = tuple(row[1:][mask == 1])
    wanted = range(len(documents)) if chosen is None else chosen.astype(int).tolist()
    assert found == {i: tuple(documents[i][:context]) for i in wanted}
