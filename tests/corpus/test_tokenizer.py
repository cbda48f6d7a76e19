import json
import lzma
import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import data
from titlesmith.corpus.clean import clean, clean_all
from titlesmith.corpus.documents import Documents, Writer, write
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.errors import RequestError

TEXTS = ["Neural speech recognition in noise", "Music transcription with neural networks", "Nöise & écho: 音声"] * 9
LEARNED = Tokenizer.learn(TEXTS, 320)


@given(st.text())
def test_what_was_encoded_decodes_to_the_same_text(text):
    text = clean(text)
    assert LEARNED.decode(LEARNED.encode(text)) == text


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_batch_encodes_as_each_text_alone(texts):
    assert LEARNED.encode_batch(texts) == [LEARNED.encode(text) for text in texts]


def test_no_text_encodes_to_the_delimiter():
    assert LEARNED.eos_id == len(LEARNED) - 1
    ids = LEARNED.encode(f"a{END}b")
    assert LEARNED.eos_id not in ids
    assert LEARNED.decode(ids) == f"a{END}b"


def test_learned_vocabularies_are_the_same_for_the_same_texts_and_of_the_size_asked():
    again = Tokenizer.learn(TEXTS, 320)
    assert again.vocabulary == LEARNED.vocabulary and again.merges == LEARNED.merges
    assert len(LEARNED) == 320
    assert len(Tokenizer.learn(["ab", "ab cd"], 320)) == 258, "256 bytes, one merge, the end of text"


def test_files_are_those_that_gpt_2_simple_reads(tmp_path):
    from gpt_2_simple.src.encoder import get_encoder

    LEARNED.save(tmp_path)
    stock, again = get_encoder(tmp_path), Tokenizer.load(tmp_path)
    assert again.vocabulary == LEARNED.vocabulary
    for text in TEXTS[:3]:
        assert stock.encode(text) == again.encode(text) == LEARNED.encode(text)
        assert stock.decode(again.encode(text)) == text


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """GPT-2's vocabulary in gpt-2-simple's encoder and in ours."""
    from gpt_2_simple.src.encoder import get_encoder

    folder = tmp_path_factory.mktemp("bpe")
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(data(f"gpt2-bpe/{name}"), folder)
    return get_encoder(folder), Tokenizer.load(folder)


@pytest.mark.parametrize(("column", "every"), [("title", 1), ("abstract", 8)])
@pytest.mark.parametrize("category", ["eess.AS", "cs.CL"])
def test_gpt2_vocabulary_gives_the_ids_of_gpt_2_simple_on_real_texts(both, category, column, every):
    stock, ours = both
    assert ours.eos_id == 50256 and ours.newline_id == 198
    content = lzma.decompress(data(f"arxiv/{category}.tsv.xz").read_bytes())
    texts = pl.read_csv(content, separator="\t", infer_schema=False)[column].fill_null("")[::every]
    for variant in (texts, clean_all(texts)):
        assert ours.encode_batch(variant.to_list()) == [stock.encode(text) for text in variant]
    assert [ours.decode(ids) for ids in ours.encode_batch(texts.to_list())] == texts.to_list()


@settings(max_examples=500, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab'sS \n\u00a0\u200b1\u0660é音<|>", max_size=20)
)
def test_gpt2_vocabulary_gives_the_ids_of_gpt_2_simple_on_any_text(both, text):
    stock, ours = both
    assert ours.encode(text) == stock.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_a_vocabulary_that_lacks_bytes_is_refused():
    lacking = Tokenizer({k: v for k, v in LEARNED.vocabulary.items() if k not in "Ãé"}, [])
    assert lacking.encode_batch(["speech"]) == [lacking.encode("speech")]
    with pytest.raises(RequestError, match="no byte-level vocabulary"):
        lacking.encode_batch(["é"])


@pytest.mark.parametrize(("size", "kind"), [(320, np.uint16), (70000, np.uint32)])
def test_documents_come_back_as_written(tmp_path, size, kind):
    vocabulary = dict(LEARNED.vocabulary) | {f"extra{i}": i for i in range(320, size)}
    tokenizer = Tokenizer(vocabulary, LEARNED.merges)
    lists = [LEARNED.encode(text) for text in TEXTS[:3]] + [[size - 1]]
    write(tmp_path / "train.bin", lists, tokenizer)
    documents = Documents(tmp_path / "train.bin", tokenizer, has_prompt=False)
    assert documents.ids.dtype == kind and documents.starts.dtype == np.uint64
    assert documents.ids[0] == tokenizer.eos_id
    assert [d.tolist() for d in documents] == [[*ids, tokenizer.eos_id] for ids in lists]
    assert documents.loss_mask(documents[0]).all()


@pytest.mark.parametrize("delimiters", ["ids", "text"])
def test_only_the_completion_is_learned_where_there_is_a_prompt(tmp_path, delimiters):
    layout = TokenLayout(LEARNED, delimiters, has_prompt=True)
    completion = [*LEARNED.encode("Neural"), *layout.stop]
    write(tmp_path / "a.bin", [[*layout.prompt_ids("two\n\nlines<|sep|>")[1:], *completion]], LEARNED)
    documents = Documents(tmp_path / "a.bin", LEARNED, True, layout.separator)
    learned = documents.loss_mask(documents[0])
    assert documents[0][learned == 1].tolist() == [*completion, LEARNED.eos_id]


def test_the_end_of_a_document_that_was_cut_is_not_learned(tmp_path):
    write(tmp_path / "a.bin", [[1, 2, 3], [1, 2]], LEARNED)
    cut, whole = Documents(tmp_path / "a.bin", LEARNED, False, context=3)
    documents = Documents(tmp_path / "a.bin", LEARNED, False, context=3)
    assert documents.loss_mask(cut).tolist() == [1, 1, 1, 0] and documents.loss_mask(whole).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("delimiters", "has_prompt", "text"),
    [
        ("ids", False, "Music"),
        ("ids", True, "noise\nMusic"),
        ("text", False, "<|startoftext|>Music<|endoftext|>"),
        ("text", True, "<|startoftext|>noise<|sep|>Music<|endoftext|>"),
    ],
)
def test_a_layout_opens_documents_as_they_stand_in_the_corpus(delimiters, has_prompt, text):
    layout = TokenLayout(LEARNED, delimiters, has_prompt)
    assert layout.join("noise" if has_prompt else "", "Music") == text
    end, *opening = layout.prompt_ids("noise" if has_prompt else "")
    document = [*opening, *LEARNED.encode("Music"), *layout.stop]
    assert end == LEARNED.eos_id not in document and LEARNED.decode(document) == text
    assert layout.decode(document[len(opening) :]) == "Music"


@given(st.lists(st.lists(st.lists(st.integers(0, 319)))))
def test_batches_are_written_as_the_whole(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("batches")
    with Writer(folder / "a.bin", LEARNED) as writer:
        for batch in batches:
            writer.append(batch)
    write(folder / "b.bin", [ids for batch in batches for ids in batch], LEARNED)
    for suffix in ("bin", "idx"):
        assert (folder / f"a.{suffix}").read_bytes() == (folder / f"b.{suffix}").read_bytes()


def test_encoder_json_is_plain_json(tmp_path):
    LEARNED.save(tmp_path)
    assert json.loads((tmp_path / "encoder.json").read_text())[END] == 319


@given(st.text("Neuralspch tü1-", min_size=1, max_size=20), st.text("Neuralspch tü1-", max_size=8))
def test_covers_are_the_ways_in_which_longer_texts_begin(text, more):
    text = " ".join(text.split()) + " " * text.endswith(" ")
    if not text or (text[-1] == " " == more[:1]):
        return
    head, found = LEARNED.cover_encodings(text)
    ids = LEARNED.encode(text + more)
    size = next(i for i in range(1, len(ids) + 1) if LEARNED.decode(ids[:i]).startswith(text))
    begun = tuple(ids[len(head) : size - 1])
    assert ids[: len(head)] == head and ids[size - 1] in found[begun]


@given(st.text(min_size=1))
def test_the_ids_of_a_text_are_one_of_its_covers(text):
    head, found = LEARNED.cover_encodings(text)
    *begun, last = LEARNED.encode(text)[len(head) :]
    assert last in found[tuple(begun)]


@given(st.text(), st.text())
def test_the_rest_of_ids_is_what_stands_behind_a_text(text, more):
    assert LEARNED.decode_after(text, LEARNED.encode(text + more)) == more
