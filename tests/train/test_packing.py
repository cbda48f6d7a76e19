from collections import Counter
from dataclasses import fields
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.corpus.documents import Documents
from titlesmith.train.packing import Batch, PackedDataset, padded_batches

END = 99


def random_documents(lengths: list[int], alphabet: int, prompt: int = 0, context: int = 0) -> Documents:
    """Documents of given lengths with random ids below ``alphabet``."""
    generator = np.random.default_rng(0)
    ends = [n if 0 < context <= n else n + 1 for n in lengths]  # the end of a document that was cut is not learned
    targets = np.array([(min(prompt, end), end) for end in ends])
    return Documents.of([generator.integers(0, alphabet, n) for n in lengths], targets, SimpleNamespace(eos_id=END))


LENGTHS = st.lists(st.integers(1, 40), min_size=3, max_size=30)
BLOCKS = st.integers(8, 30)


def learned(batch: Batch) -> Counter:
    """Count of each context (ids of one document) and next id that a batch trains."""
    counts = Counter()
    for ids, positions, labels, weights in zip(*vars(batch).values(), strict=True):
        for token in np.flatnonzero(weights):
            assert weights[token] == 1
            counts[(*ids[token - positions[token] : token + 1].tolist(), int(labels[token]))] += 1
    return counts


def expected(documents: Documents, block: int) -> Counter:
    """The same from the documents; one that is longer than a row is cut into pieces."""
    counts = Counter()
    for i in range(len(documents)):
        document, mask = documents[i], documents.loss_mask(i)
        ids = [END, *document.tolist()]
        for start in range(0, len(document), block):
            for at in range(start, min(start + block, len(document))):
                if mask[at]:
                    counts[tuple(ids[start : at + 2])] += 1
    return counts


@settings(deadline=None)
@given(LENGTHS, BLOCKS, st.integers(0, 6), st.sampled_from([0, 8, 12]))
def test_every_document_is_learned_once_an_epoch_in_its_own_context(lengths, block, prompt, context):
    documents = random_documents(lengths, 90, prompt, context)
    rows = PackedDataset(documents, 1, block, len(lengths), mask_documents=True)
    batches = rows.batches(1)
    for _ in range(2):
        counts = Counter()
        while counts.total() < rows.num_targets:
            counts += learned(next(batches))
        assert counts == expected(documents, block) and counts.total() == rows.num_targets


@settings(deadline=None)
@given(LENGTHS, BLOCKS, st.integers(1, 4), st.integers(1, 5))
def test_parts_of_a_batch_teach_the_same(lengths, block, step, parts):
    batch = PackedDataset(random_documents(lengths, 90), 5, block, 1, mask_documents=True)[step]
    assert all(getattr(batch, field.name).shape == (5, block) for field in fields(Batch))
    assert sum(map(learned, batch.split(parts)), Counter()) == learned(batch)


@settings(deadline=None)
@given(LENGTHS, BLOCKS, st.integers(1, 6))
def test_without_a_mask_a_row_has_the_same_tokens_and_counted_positions(lengths, block, step):
    masked, row = (PackedDataset(random_documents(lengths, 90), 2, block, 1, masks)[step] for masks in (True, False))
    assert (row.position_ids == np.arange(block)).all()
    assert all(np.array_equal(getattr(masked, name), getattr(row, name)) for name in ("ids", "labels", "weights"))


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 30))
def test_rows_are_a_function_of_the_step(lengths, batch, step):
    rows = PackedDataset(random_documents(lengths, 5), batch, 16, 1, True)
    passed = next(islice(rows.batches(1), step - 1, None))
    for field in fields(Batch):
        assert np.array_equal(getattr(passed, field.name), getattr(rows[step], field.name))


def test_a_long_document_fills_rows_and_its_rest_begins_with_the_token_before_it():
    documents = random_documents([20, 3], 90)
    batch, ids = PackedDataset(documents, 2, 16, 1, True)[1], documents[0].tolist()
    full = batch.labels[:, 0].tolist().index(ids[0])
    assert batch.ids[full].tolist() == [END, *ids[:15]] and batch.labels[full].tolist() == ids[:16]
    other = batch.ids[1 - full].tolist()
    assert other[(at := other.index(ids[15])) : at + 5] == ids[15:20]
    assert batch.labels[1 - full][at : at + 5].tolist() == ids[16:] and (batch.position_ids[1 - full] == 0).sum() >= 2


def test_rows_are_nearly_full_and_mixed():
    documents = random_documents(np.random.default_rng(1).integers(5, 25, 3000).tolist(), 30)
    rows = PackedDataset(documents, 1, 128, 1, mask_documents=True)
    assert rows.num_rows * 128 / rows.num_targets < 1.01
    batches = list(islice(rows.batches(1), rows.num_rows))
    counts = [int((batch.labels == END).sum()) for batch in batches]  # documents of a row
    assert abs(np.corrcoef(counts, range(rows.num_rows))[0, 1]) < 0.2 and np.std(counts) > 1
    lengths = [np.diff(np.flatnonzero(batch.position_ids[0] == 0)) for batch in batches[:99]]
    firsts, lasts = np.mean([row[0] for row in lengths]), np.mean([row[-2] for row in lengths])
    assert abs(firsts - lasts) < 3, "documents of a row are in random order"


@pytest.mark.parametrize("mask_documents", [False, True])
def test_every_row_has_something_to_learn(mask_documents):
    cut, prompts = random_documents([16] * 20, 90, context=16), random_documents([32] * 20, 90, prompt=16)
    for documents in (cut, prompts):
        rows = PackedDataset(documents, 1, 16, 1, mask_documents)
        assert all(batch.weights.any() for batch in islice(rows.batches(1), rows.num_rows))


@given(LENGTHS, st.integers(3, 50), st.integers(20, 200), st.data())
def test_padded_batches_have_every_chosen_document_once_cut_at_the_context(lengths, context, tokens, data):
    documents, read = random_documents(lengths, 90), {}
    chosen = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), unique=True)), int)
    for which, ids, weights in padded_batches(documents, context, tokens, chosen):
        assert ids.shape == (weights.shape[0], weights.shape[1] + 1)
        assert ids.shape[0] == 1 or weights.size <= tokens
        for i, row, mask in zip(which, ids, weights, strict=True):
            assert row[0] == END and i not in read
            read[i] = tuple(row[1:][mask == 1])
    assert read == {i: tuple(documents[i][:context]) for i in chosen.tolist()}
