from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.engines.rows import Rows, padded

END, NEWLINE = 99, 98


class Fake:
    """Documents of given lengths; ids count up, so that each can be recognized."""

    tokenizer = SimpleNamespace(end=END, newline=NEWLINE)
    context = 0

    @property
    def has_prompt(self):
        return bool(self.prompt)

    @property
    def learned_tokens(self):
        return sum(int(self.learned(self[i]).sum()) for i in range(len(self)))

    def __init__(self, lengths: list[int], prompt: int = 0):
        self.prompt = prompt
        self.starts = np.cumsum([1] + [n + 1 for n in lengths])

    def __len__(self):
        return len(self.starts) - 1

    def __getitem__(self, i):
        length = self.starts[i + 1] - self.starts[i]
        return np.array([*(1000 * (i + 1) + np.arange(length - 1)), END], np.int32)

    def learned(self, document):
        return (np.arange(len(document)) >= self.prompt).astype(np.float32)


LENGTHS = st.lists(st.integers(1, 40), min_size=3, max_size=30)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(8, 30), st.integers(0, 9))
def test_every_document_is_learned_once_an_epoch(lengths, batch, block, seed):
    documents = Fake(lengths)
    rows = Rows(documents, batch, block, seed)
    seen, learned_tokens, step = [], 0, 0
    while learned_tokens < 2 * rows.epoch:
        step += 1
        ids, learned = rows[step]
        assert ids.shape == (batch, block + 1) and learned.shape == (batch, block)
        seen += ids[:, 1:][learned == 1].tolist()
        learned_tokens = len(seen)
    everything = sorted(np.concatenate([documents[i] for i in range(len(documents))]).tolist())
    assert rows.epoch == len(everything)
    assert sorted(seen[: rows.epoch]) == everything
    assert sorted(seen[rows.epoch : 2 * rows.epoch]) == everything


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 30))
def test_rows_are_a_function_of_the_step(lengths, batch, step):
    fresh, used = Rows(Fake(lengths), batch, 16, 1), Rows(Fake(lengths), batch, 16, 1)
    for earlier in range(1, step + 3):
        _ = used[earlier]
    for a, b in zip(fresh[step], used[step], strict=True):
        assert np.array_equal(a, b)


def test_a_row_starts_with_a_whole_document_behind_an_end_of_text():
    rows = Rows(Fake([5, 6, 4, 7, 3]), 2, 16, 1)
    for step in range(1, 6):
        ids, learned = rows[step]
        assert (ids[:, 0] == END).all()
        assert (ids[:, 1] % 1000 == 0).all()
        assert (ids[:, 1:][learned == 0] == END).all()


def test_a_long_document_goes_on_in_the_next_row_with_its_last_token_before_it():
    ids, learned = Rows(Fake([20]), 2, 16, 1)[1]
    assert ids[0, 0] == END and ids[0, 1:].tolist() == [1000 + i for i in range(16)]
    assert ids[1, :6].tolist() == [1015, 1016, 1017, 1018, 1019, END]
    assert learned[1].sum() == 5


def test_prompts_are_read_and_not_learned():
    rows = Rows(Fake([5, 5], prompt=3), 1, 16, 1)
    ids, learned = rows[1]
    assert learned.sum() == rows.epoch == 6
    assert 1000 in ids and 1000 not in ids[:, 1:][learned == 1]


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
