import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus import Documents, Tokenizer, TokenLayout
from titlesmith.corpus.documents import DocumentWriter

TEXTS = ["Neural speech recognition in noise", "Music transcription with neural networks"] * 9
LEARNED = Tokenizer.learn(TEXTS, 320)


def write(path, batches, tokenizer):
    with DocumentWriter(path, tokenizer) as writer:
        for batch in batches:
            writer.append(batch)


@pytest.mark.parametrize(("size", "kind"), [(320, np.uint16), (70000, np.uint32)])
def test_documents_are_read_as_written(tmp_path, size, kind):
    vocabulary = dict(LEARNED.vocabulary) | {f"extra{i}": i for i in range(320, size)}
    tokenizer = Tokenizer(vocabulary, LEARNED.merges)
    lists = [LEARNED.encode(text) for text in TEXTS[:3]] + [[size - 1]]
    write(tmp_path / "train.bin", [lists], tokenizer)
    documents = Documents(tmp_path / "train.bin", tokenizer, has_prompt=False)
    assert documents.ids.dtype == kind and documents.starts.dtype == np.uint64
    assert documents.ids[0] == tokenizer.eos_id
    assert [d.tolist() for d in documents] == [[*ids, tokenizer.eos_id] for ids in lists]
    assert documents.loss_mask(documents[0]).all()
    part = documents.subset(np.array([1, 3]))
    assert [d.tolist() for d in part] == [[*lists[i], tokenizer.eos_id] for i in (1, 3)] and len(part) == 2
    assert part.ids.dtype == kind and part.ids[0] == tokenizer.eos_id and len(documents) == 4
    assert part.target_tokens == len(part.ids) - 1 and documents.subset(np.arange(4)) is documents


@pytest.mark.parametrize("delimiters", ["ids", "text"])
def test_the_loss_counts_only_the_completion_after_a_prompt(tmp_path, delimiters):
    layout = TokenLayout(LEARNED, delimiters, has_prompt=True)
    completion = [*LEARNED.encode("Neural"), *layout.stop]
    write(tmp_path / "a.bin", [[[*layout.prompt_ids("two\n\nlines<|sep|>")[1:], *completion]]], LEARNED)
    documents = Documents(tmp_path / "a.bin", LEARNED, True, layout.separator)
    mask = documents.loss_mask(documents[0])
    assert documents[0][mask == 1].tolist() == [*completion, LEARNED.eos_id]


def test_the_loss_does_not_count_the_end_of_text_after_a_document_that_was_cut(tmp_path):
    write(tmp_path / "a.bin", [[[1, 2, 3], [1, 2]]], LEARNED)
    cut, complete = Documents(tmp_path / "a.bin", LEARNED, False, context=3)
    documents = Documents(tmp_path / "a.bin", LEARNED, False, context=3)
    assert documents.loss_mask(cut).tolist() == [1, 1, 1, 0] and documents.loss_mask(complete).tolist() == [1, 1, 1]


@given(st.lists(st.lists(st.lists(st.integers(0, 319)))))
def test_the_files_do_not_depend_on_batches(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("batches")
    write(folder / "a.bin", batches, LEARNED)
    write(folder / "b.bin", [[ids for batch in batches for ids in batch]], LEARNED)
    for suffix in ("bin", "idx"):
        assert (folder / f"a.{suffix}").read_bytes() == (folder / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("has_prompt", [False, True])
def test_the_loss_does_not_count_what_every_document_begins_with(tmp_path, has_prompt):
    layout = TokenLayout(LEARNED, "ids", has_prompt, bos_ids=[1, 2])
    texts = [*LEARNED.encode("noise"), *layout.separator] * has_prompt, LEARNED.encode("Neural")
    write(tmp_path / "a.bin", [[[*layout.start, *texts[0], *texts[1]]] * 3], LEARNED)
    documents = Documents(tmp_path / "a.bin", LEARNED, has_prompt, layout.separator, num_start=len(layout.start))
    masks = [documents.loss_mask(document) for document in documents]
    assert documents[0][masks[0] == 1].tolist() == [*texts[1], LEARNED.eos_id]
    assert documents.target_tokens == sum(mask.sum() for mask in masks)
