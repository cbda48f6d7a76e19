import json
import lzma
import shutil

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Codec
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from conftest import data
from titlesmith.corpus.clean import clean
from titlesmith.corpus.layout import TokenLayout
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

    LEARNED.save_gpt2(tmp_path)
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


@pytest.mark.parametrize(("category", "column", "every"), [("eess.AS", "title", 1), ("cs.CL", "abstract", 8)])
def test_ids_equal_those_of_gpt_2_simple_on_real_texts(both, category, column, every):
    stock, ours = both
    assert ours.eos_id == 50256 and ours.newline_id == 198
    content = lzma.decompress(data(f"arxiv/{category}.tsv.xz").read_bytes())
    texts = pl.read_csv(content, separator="\t", infer_schema=False)[column].fill_null("")[::every]
    for variant in (texts.to_list(), list(map(clean, texts))):
        assert ours.encode_batch(variant) == [stock.encode(text) for text in variant]
    assert [ours.decode(ids) for ids in ours.encode_batch(texts.to_list())] == texts.to_list()


@settings(max_examples=500, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab'sS \n\u00a0\u200b1\u0660é音<|>", max_size=20)
)
def test_ids_equal_those_of_gpt_2_simple_on_any_text(both, text):
    stock, ours = both
    assert ours.encode(text) == stock.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_a_vocabulary_that_lacks_bytes_is_refused(tmp_path):
    Tokenizer.of_gpt2({k: v for k, v in LEARNED.vocabulary.items() if k not in "Ãé"}, []).save_gpt2(tmp_path)
    with pytest.raises(RequestError, match="lacks some of the 256 bytes"):
        Tokenizer.load(tmp_path)


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


PUBLISHED = ["Neural speech recognition in noise", "A study of music", "Ċ letter of Maltese", "in noise\nA study"] * 20
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def learn(model, trainer, pre_tokenizer):
    codec = Codec(model)
    codec.pre_tokenizer = pre_tokenizer
    codec.train_from_iterator(PUBLISHED, trainer)
    return json.loads(codec.to_str())["model"]


def byte_level():
    codec = Codec(models.BPE())
    codec.pre_tokenizer, codec.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    codec.train_from_iterator(PUBLISHED, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return codec


def metaspace(codec):
    """Spaces are ▁, and bytes stand for characters without a piece, as in SentencePiece."""
    codec.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    codec.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return codec


def sentencepiece_bpe():
    learned = learn(models.BPE(unk_token="<unk>"), trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIAL),
                    pre_tokenizers.Metaspace())  # fmt: skip
    pieces = [*SPECIAL, *BYTES, *(piece for piece in learned["vocab"] if piece not in SPECIAL and piece != "\n")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(pair) for pair in learned["merges"] if "\n" not in "".join(pair)]
    return metaspace(Codec(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)))


def llama():
    """As transformers writes LLaMA's vocabulary since 2024."""
    codec = sentencepiece_bpe()
    codec.normalizer, codec.pre_tokenizer = None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return codec


def unigram():
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIAL, unk_token="<unk>")
    learned = learn(models.Unigram(), trainer, pre_tokenizers.Metaspace())
    pieces = [(piece, score) for piece, score in learned["vocab"] if "\n" not in piece]
    return metaspace(Codec(models.Unigram([*pieces, ("\n", -1.0), *((b, -9.0) for b in BYTES)], 0, byte_fallback=True)))


def wordpiece():
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL)
    learned = learn(models.WordPiece(unk_token="<unk>"), trainer, pre_tokenizers.BertPreTokenizer())
    codec = Codec(models.WordPiece(learned["vocab"], unk_token="<unk>"))
    codec.pre_tokenizer, codec.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return codec


VOCABULARIES = {
    "byte-level": byte_level, "bpe": sentencepiece_bpe, "llama": llama, "unigram": unigram, "wordpiece": wordpiece
}  # fmt: skip
ENDS = {  # where the end of text is named
    "tokenizer_config.json": {"tokenizer_config.json": {"eos_token": "</s>"}},
    "as an added token": {"special_tokens_map.json": {"eos_token": {"content": "</s>", "lstrip": False}}},
    "config.json": {"config.json": {"eos_token_id": None}},
    "generation_config.json": {"generation_config.json": {"eos_token_id": [None, 0]}},
}


def save(folder, codec, settings):
    """A model's vocabulary with ``</s>``, whose id replaces None in the settings; the id."""
    codec.add_special_tokens(SPECIAL)
    end = codec.token_to_id("</s>")
    for name, content in settings.items():
        given = content.get("eos_token_id", 0)
        filled = {None: end}.get(given, given) if not isinstance(given, list) else [end, *given[1:]]
        (folder / name).write_text(json.dumps(content | ({"eos_token_id": filled} if given != 0 else {})))
    (folder / "tokenizer.json").write_text(codec.to_str())
    return end


@pytest.mark.parametrize(
    ("kind", "named", "begin"),
    [(kind, "tokenizer_config.json", begin) for kind in VOCABULARIES for begin in (True, False)]
    + [("bpe", named, True) for named in ENDS],
)
def test_special_tokens_are_found_in_every_kind_of_vocabulary(tmp_path, kind, named, begin):
    codec = VOCABULARIES[kind]()
    codec.add_special_tokens(SPECIAL)
    first = codec.token_to_id("<s>")
    if begin:
        codec.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", first)])
    end = save(tmp_path, codec, ENDS[named])
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_id == end and tokenizer.bos_ids == ((first,) if begin else ())
    if kind != "unigram":
        assert {first, end}.isdisjoint(tokenizer.encode("noise<s> in</s>"))
    if kind == "wordpiece":
        assert tokenizer.newline_id is None
        with pytest.raises(RequestError, match="no newline to put between a prompt and its completion"):
            TokenLayout(tokenizer, "ids", has_prompt=True)
        return
    # The newline is a newline, although the vocabulary may have the letter that byte-level BPE writes for it
    assert tokenizer.decode([*tokenizer.encode("A"), tokenizer.newline_id]) == "A\n"
    layout = TokenLayout(tokenizer, "ids", has_prompt=True)
    assert layout.prompt_ids("A", "in") == [end, *[first] * begin, *tokenizer.encode("A\nin")]
    assert "Ċ" in tokenizer.vocabulary and (tokenizer.vocabulary["Ċ"] == tokenizer.newline_id) == (kind == "byte-level")
    assert tokenizer.decode(tokenizer.encode("Ċ letter\nof noise")) == "Ċ letter\nof noise"


def test_openings_are_special_tokens_that_the_tokenizer_names(tmp_path):
    names = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "pad_token": "</s>"}
    end = save(tmp_path, byte_level(), {"tokenizer_config.json": names})
    tokenizer = Tokenizer.load(tmp_path)
    unknown, first = (tokenizer.vocabulary[name] for name in ("<unk>", "<s>"))
    assert tokenizer.openings == [(end, ()), (unknown, ()), (end, (first,))]
    other = tokenizer.with_end(unknown)
    (tmp_path / "saved").mkdir()
    other.save(tmp_path / "saved")
    assert other.eos_id == Tokenizer.load(tmp_path / "saved").eos_id == unknown


@pytest.mark.parametrize("settings", [{}, {"eos_token": "<end>"}, {"eos_token_id": 10**6}])
def test_a_vocabulary_without_an_end_of_text_is_refused(tmp_path, settings):
    codec = sentencepiece_bpe()
    (tmp_path / "tokenizer.json").write_text(codec.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(RequestError, match="no end-of-text token"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_is_parsed_once(tmp_path):
    save(tmp_path, byte_level(), ENDS["tokenizer_config.json"])
    assert Tokenizer.load(tmp_path) is Tokenizer.load(tmp_path)
