import json
import lzma
import shutil

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import data
from titlesmith.corpus.clean import clean, clean_all
from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.errors import RequestError

TEXTS = ["Neural speech recognition in noise", "Music transcription with neural networks", "Nöise & écho: 音声"] * 9
LEARNED = Tokenizer.learn(TEXTS, 320)


@given(st.text())
def test_ids_of_a_text_decode_to_it(text):
    text = clean(text)
    assert LEARNED.decode(LEARNED.encode(text)) == text


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_batch_has_the_ids_of_each_text(texts):
    assert LEARNED.encode_batch(texts) == [LEARNED.encode(text) for text in texts]


def test_no_text_encodes_to_the_delimiter():
    assert LEARNED.eos_id == len(LEARNED) - 1
    ids = LEARNED.encode(f"a{END}b")
    assert LEARNED.eos_id not in ids
    assert LEARNED.decode(ids) == f"a{END}b"


def test_a_learned_vocabulary_is_reproducible_and_has_the_requested_size():
    again = Tokenizer.learn(TEXTS, 320)
    assert again.vocabulary == LEARNED.vocabulary and again.merges == LEARNED.merges
    assert len(LEARNED) == 320
    assert len(Tokenizer.learn(["ab", "ab cd"], 320)) == 258, "256 bytes, one merge, the end of text"


def test_gpt_2_simple_reads_the_files(tmp_path):
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
def test_ids_equal_those_of_gpt_2_simple_on_real_texts(both, category, column, every):
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
def test_ids_equal_those_of_gpt_2_simple_on_any_text(both, text):
    stock, ours = both
    assert ours.encode(text) == stock.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_a_vocabulary_that_lacks_bytes_is_refused():
    lacking = Tokenizer({k: v for k, v in LEARNED.vocabulary.items() if k not in "Ãé"}, [])
    assert lacking.encode_batch(["speech"]) == [lacking.encode("speech")]
    with pytest.raises(RequestError, match="not a byte-level vocabulary"):
        lacking.encode_batch(["é"])


def test_encoder_json_is_plain_json(tmp_path):
    LEARNED.save(tmp_path)
    assert json.loads((tmp_path / "encoder.json").read_text())[END] == 319


@given(st.text("Neuralspch tü1-", min_size=1, max_size=20), st.text("Neuralspch tü1-", max_size=8))
def test_cover_encodings_contain_the_beginning_of_every_longer_text(text, more):
    text = " ".join(text.split()) + " " * text.endswith(" ")
    if not text or (text[-1] == " " == more[:1]):
        return
    head, covers = LEARNED.cover_encodings(text)
    ids = LEARNED.encode(text + more)
    size = next(i for i in range(1, len(ids) + 1) if LEARNED.decode(ids[:i]).startswith(text))
    begun = tuple(ids[len(head) : size - 1])
    assert ids[: len(head)] == head and ids[size - 1] in covers[begun]


@given(st.text(min_size=1))
def test_cover_encodings_contain_the_ids_of_the_text(text):
    head, covers = LEARNED.cover_encodings(text)
    *begun, last = LEARNED.encode(text)[len(head) :]
    assert last in covers[tuple(begun)]


@given(st.text(), st.text())
def test_decode_after_returns_the_text_after_a_prefix(text, more):
    assert LEARNED.decode_after(text, LEARNED.encode(text + more)) == more
