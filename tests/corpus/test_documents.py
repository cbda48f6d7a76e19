import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.documents import Documents, writing_documents
from titlesmith.corpus.tokenizer import Tokenizer

TEXTS = ["Neural speech recognition in noise", "Music transcription with neural networks"] * 9
LEARNED = Tokenizer.learn(TEXTS, 320)


def write(path, batches, tokenizer):
    """Writes documents, of which the loss does not count the first id if there are several."""
    with writing_documents(path, tokenizer) as writer:
        for batch in batches:
            writer(batch, np.array([(len(ids) > 1, len(ids) + 1) for ids in batch], np.int64).reshape(-1, 2))


@pytest.mark.parametrize(("size", "kind"), [(320, np.uint16), (70000, np.uint32)])
def test_documents_are_read_as_written(tmp_path, size, kind):
    vocabulary = dict(LEARNED.vocabulary) | {f"extra{i}": i for i in range(320, size)}
    tokenizer = Tokenizer.of_gpt2(vocabulary, LEARNED.merges)
    lists = [LEARNED.encode(text) for text in TEXTS[:3]] + [[size - 1]]
    write(tmp_path / "train.bin", [lists], tokenizer)
    documents = Documents.open(tmp_path / "train.bin", tokenizer)
    assert isinstance(documents.ids.base, np.memmap) and documents.ids.dtype == kind
    assert documents.ids[0] == tokenizer.eos_id
    assert [d.tolist() for d in documents] == [[*ids, tokenizer.eos_id] for ids in lists]
    assert documents.loss_mask(0).tolist() == [0] + [1] * len(lists[0]) and documents.loss_mask(3).tolist() == [1, 1]
    assert documents.target_tokens == sum(documents.loss_mask(i).sum() for i in range(4))
    part = documents.subset(np.array([1, 3]))
    assert [d.tolist() for d in part] == [[*lists[i], tokenizer.eos_id] for i in (1, 3)] and len(part) == 2
    assert part.ids[0] == tokenizer.eos_id and len(documents) == 4
    assert part.target_tokens == len(part.ids) - 2 and documents.subset(np.arange(4)) is documents


@given(st.lists(st.lists(st.lists(st.integers(0, 319)))))
def test_the_files_do_not_depend_on_batches(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("batches")
    write(folder / "a.bin", batches, LEARNED)
    write(folder / "b.bin", [[ids for batch in batches for ids in batch]], LEARNED)
    for suffix in ("bin", "bounds"):
        assert (folder / f"a.{suffix}").read_bytes() == (folder / f"b.{suffix}").read_bytes()
