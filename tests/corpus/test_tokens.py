import json
import lzma
import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import data
from titlesmith.corpus.clean import clean
from titlesmith.corpus.tokens import END, Documents, Tokenizer, write

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
    assert LEARNED.end == len(LEARNED) - 1
    ids = LEARNED.encode(f"a{END}b")
    assert LEARNED.end not in ids
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


def test_gpt2_vocabulary_gives_the_ids_of_gpt_2_simple_on_real_titles(both):
    stock, ours = both
    assert ours.end == 50256 and ours.newline == 198
    content = lzma.decompress(data("arxiv/eess.AS.tsv.xz").read_bytes())
    titles = pl.read_csv(content, separator="\t", infer_schema=False)["title"].to_list()
    assert ours.encode_batch(titles) == [stock.encode(title) for title in titles]


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_gpt2_vocabulary_gives_the_ids_of_gpt_2_simple_on_any_cleaned_text(both, text):
    stock, ours = both
    text = clean(text)
    assert ours.encode(text) == stock.encode(text)


@pytest.mark.parametrize(("size", "kind"), [(320, np.uint16), (70000, np.uint32)])
def test_documents_come_back_as_written(tmp_path, size, kind):
    vocabulary = dict(LEARNED.vocabulary) | {f"extra{i}": i for i in range(320, size)}
    tokenizer = Tokenizer(vocabulary, LEARNED.merges)
    lists = [LEARNED.encode(text) for text in TEXTS[:3]] + [[size - 1]]
    write(tmp_path / "train.bin", lists, tokenizer)
    documents = Documents(tmp_path / "train.bin", tokenizer, has_prompt=False)
    assert documents.ids.dtype == kind and documents.starts.dtype == np.uint64
    assert documents.ids[0] == tokenizer.end
    assert [d.tolist() for d in documents] == [[*ids, tokenizer.end] for ids in lists]
    assert documents.learned(documents[0]).all()


def test_only_the_completion_is_learned_where_there_is_a_prompt(tmp_path):
    prompt, completion = LEARNED.encode("two\n\nlines"), LEARNED.encode("Neural")
    write(tmp_path / "a.bin", [[*prompt, LEARNED.newline, *completion]], LEARNED)
    documents = Documents(tmp_path / "a.bin", LEARNED, has_prompt=True)
    learned = documents.learned(documents[0])
    assert documents[0][learned == 1].tolist() == [*completion, LEARNED.end]


def test_encoder_json_is_plain_json(tmp_path):
    LEARNED.save(tmp_path)
    assert json.loads((tmp_path / "encoder.json").read_text())[END] == 319
