import json
import lzma

import polars as pl
import pytest

from conftest import HOSTILE, corpus_settings, data
from titlesmith import corpus as corpora
from titlesmith.corpus import SPLITS, Corpus, papers
from titlesmith.corpus.clean import clean
from titlesmith.errors import RequestError
from titlesmith.harvest import SCHEMA
from titlesmith.runs import Run

HARVEST = {"source": "archive"}
ABSTRACT = "We study {} in rooms. It gets better with caf\\'es, $\\alpha$ and {} \n words of  noise: 音声."


def table(count: int = 200) -> pl.DataFrame:
    """Papers, two of three in cs.SD; every seventh has the title of the one before, in capitals."""
    nouns = ["speech", "music", "sound", "voice", "noise", "tempo", "pitch", "echo"]
    titles = [f"{HOSTILE} {nouns[i % 8]} {i}" for i in range(count)]
    titles = [titles[i - 1].upper() if i and i % 7 == 0 else title for i, title in enumerate(titles)]
    rows = {
        "id": [f"{i:04d}" for i in range(count)],
        "title": titles,
        "abstract": [ABSTRACT.format(nouns[i % 8], i) * (1 + i % 3) for i in range(count)],
        "primary_category": [None if i % 20 == 0 else "eess.AS" if i % 3 == 0 else "cs.SD" for i in range(count)],
    }
    frame = pl.DataFrame(rows).with_columns(published=pl.date(2000, 1, 1) + pl.duration(days=pl.int_range(count)))
    absent = [pl.lit(None, kind).alias(name) for name, kind in SCHEMA.items() if name not in frame.columns]
    return frame.with_columns(absent).select(list(SCHEMA))


def built(frame: pl.DataFrame | None = None, context=1024, vocabulary=None, name="r", **settings) -> Corpus:
    run = Run(name)
    run.begin("harvest", settings)
    (table() if frame is None else frame).write_parquet(run / "papers.parquet")
    run.finish("harvest")
    run.begin("corpus", settings | {"context": context})
    return corpora.build(
        run, corpus_settings(**{"split": [0.8, 0.1, 0.1], "vocabulary": 400} | settings), vocabulary, context
    )


@pytest.mark.parametrize(
    ("template", "delimiters", "order"),
    [
        ("title", "ids", "random"),
        ("title", "text", "date"),
        ("title-to-abstract", "ids", "date"),
        ("{category}: {title} -> {abstract}", "text", "random"),
    ],
)
def test_every_document_decodes_to_its_cleaned_texts(project, monkeypatch, template, delimiters, order):
    monkeypatch.setattr(papers, "BATCH", 7)
    corpus = built(template=template, delimiters=delimiters, order=order)
    source = {row["id"]: row for row in table().to_dicts()}
    for name in SPLITS:
        documents, texts = corpus.documents(name), corpus.table(name)
        assert len(documents) == texts.height == corpus.info["splits"][name]["documents"]
        assert documents.target_tokens == sum(documents.loss_mask(i).sum() for i in range(len(documents)))
        for i, (ids, row) in enumerate(zip(documents, texts.to_dicts(), strict=True)):
            assert corpus.tokenizer.decode(ids[:-1]) == corpus.layout.join(row["prompt"], row["completion"])
            learned = ids[documents.loss_mask(i) == 1][:-1]
            assert corpus.layout.decode(learned).removeprefix(corpus.layout.markers[0]) == row["completion"]
            opening = corpus.layout.prompt_ids(row["prompt"])
            assert ids[: len(opening) - 1].tolist() == opening[1:]
            field = "title" if template == "title" else "abstract"
            assert row["completion"] == clean(source[row["id"]][field])


@pytest.mark.parametrize("order", ["date", "random"])
def test_no_text_is_in_two_splits_and_the_tables_add_up(project, order):
    corpus = built(template="title-to-abstract", order=order)
    splits = {name: corpus.table(name) for name in SPLITS}
    for column in ("id", "prompt", "completion"):
        texts = pl.concat(splits.values())[column].str.to_lowercase()
        assert texts.n_unique() == len(texts)
    dropped = {row["reason"]: row["papers"] for row in corpus.dropped}
    assert dropped["same title"] == 199 // 7 and dropped["no title or abstract"] == 0
    documents = {row["split"]: row["documents"] for row in corpus.counts}
    assert sum(documents.values()) + sum(dropped.values()) == corpus.info["papers"] == 200
    assert sum(row["share"] for row in corpus.counts) == pytest.approx(1)
    for name in SPLITS:
        assert sum(row[name] for row in corpus.categories) == documents[name]
    for key in ("documents", "tokens"):
        assert sum(row[key] for row in corpus.categories) == sum(row[key] for row in corpus.counts)
    assert [row["category"] for row in corpus.categories] == ["cs.SD", "eess.AS", "other"]
    if order == "date":
        first, second, third = (splits[name]["published"] for name in SPLITS)
        assert first.max() <= second.min() and second.max() <= third.min()
    words, ids = corpus.lengths("train", 50)
    assert len(words) == len(ids) <= 50 and ids[0] == len(corpus.documents("train")[0]) - 1


def test_token_counts_are_those_of_gpt_2s_encoder(project):
    from gpt_2_simple.src.encoder import get_encoder

    content = lzma.decompress(data("arxiv/eess.AS.tsv.xz").read_bytes())
    real = pl.read_csv(content, separator="\t", infer_schema=False).head(200)
    frame = table().with_columns(real["title"], real["abstract"])
    corpus = built(frame, vocabulary=data("gpt2-bpe/vocab.bpe").parent, template="title-to-abstract", delimiters="text")
    stock = get_encoder(data("gpt2-bpe/vocab.bpe").parent)
    for name in SPLITS:
        texts = corpus.table(name)
        expected = sum(len(stock.encode(text)) for column in ("prompt", "completion") for text in texts[column])
        assert corpus.info["splits"][name]["tokens"] == expected
        markers = (
            len(stock.encode("<|startoftext|>")) + len(stock.encode("<|sep|>")) + len(stock.encode("<|endoftext|>"))
        )
        assert len(corpus.documents(name).ids) == expected + texts.height * (markers + 1) + 1


def test_documents_longer_than_the_context_are_dropped_or_cut(project):
    full = built(template="title-to-abstract")
    context = max(row["longest"] for row in full.counts) - 10
    reason = f"longer than the model's context of {context} tokens"
    short = built(template="title-to-abstract", context=context, name="short")
    gone = short.info["dropped"][reason]
    assert gone["papers"] > 0 and gone["examples"]
    assert (
        sum(row["documents"] for row in short.counts) == sum(row["documents"] for row in full.counts) - gone["papers"]
    )
    cut = built(template="title-to-abstract", context=context, too_long="cut", name="cut")
    assert cut.info["dropped"][reason]["papers"] == 0
    assert sum(row["cut"] for row in cut.counts) == gone["papers"]
    for name in SPLITS:
        assert max(map(len, short.documents(name))) <= context
        assert cut.table(name).equals(full.table(name)), "texts stay complete"
        documents = cut.documents(name)
        assert documents.target_tokens == sum(documents.loss_mask(i).sum() for i in range(len(documents)))
        for i, (ids, uncut) in enumerate(zip(documents, full.documents(name), strict=True)):
            if len(uncut) > context:
                assert ids.tolist() == [*uncut[:context], cut.tokenizer.eos_id]
                assert documents.loss_mask(i)[-2:].tolist() == [1, 0], "the text does not end where it is cut"
            else:
                assert ids.tolist() == uncut.tolist() and documents.loss_mask(i)[-1] == 1
    hopeless = built(template="abstract-to-title", context=context, too_long="cut")
    assert hopeless.info["dropped"][reason]["papers"] > 0, "a prompt that fills the context leaves nothing to learn"


def test_limits_in_tokens_and_lower_case(project):
    fewest, *_, most = sorted(set(built(template="{abstract}").lengths("train")[1]))
    corpus = built(template="{abstract}", min_tokens=fewest + 1, max_tokens=most - 1, lowercase=True)
    dropped = {row["reason"]: row["papers"] for row in corpus.dropped}
    assert dropped[f"fewer than {fewest + 1} tokens"] > 0 and dropped[f"more than {most - 1} tokens"] > 0
    for name in SPLITS:
        assert all(fewest < len(ids) - 1 < most for ids in corpus.documents(name))
        assert not corpus.table(name)["completion"].str.contains("[A-Z]").any()
    with pytest.raises(RequestError, match=r"no document of train is left.*dropped: .*fewer than 1000 tokens: "):
        built(min_tokens=1000)
    assert not list((Run("r") / "corpus").glob(".*")), "nothing half written stays"


def test_the_same_settings_build_the_same_files(project):
    def content():
        return {p.name: p.read_bytes() for p in sorted(corpus.path.iterdir())}

    corpus = built(order="random")
    first = content()
    corpus = built(order="random")
    assert content() == first and set(first) >= {"corpus.json", "train.bin", "train.bounds", "train.parquet"}
    assert json.loads(first["corpus.json"])["papers"] == 200


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"template": "{title} -> {abstrac}"}, "Did you mean abstract"),
        ({"template": "tittle"}, "Did you mean title"),
        ({"drop": ["("]}, "not a regular expression"),
        ({"min_words": 5, "max_words": 4}, "corpus.min_words: 5 is more than corpus.max_words, 4"),
        ({"min_tokens": 5, "max_tokens": 4}, "corpus.min_tokens"),
    ],
)
def test_wrong_parameters_are_errors_before_anything_runs(settings, match):
    with pytest.raises(RequestError, match=match):
        corpora.check(corpus_settings(**settings), HARVEST)


def test_extra_fields_of_a_source_are_checked_when_the_corpus_is_built(project):
    settings = {"template": "{genre} -> {synopsis}"}
    with pytest.raises(RequestError, match="no field 'genre'"):
        corpora.check(corpus_settings(**settings), HARVEST)
    corpora.check(corpus_settings(**settings), {"source": "csv"})
    with pytest.raises(RequestError, match="no field 'genre'"):
        built(**settings)
    own = table().with_columns(genre=pl.lit("crime"), synopsis=pl.col("title"))
    row = built(own, **settings).table("train").to_dicts()[0]
    assert row["prompt"] == "crime" and row["completion"] == clean(own["title"][0])


def test_near_duplicates_need_datasketch(monkeypatch):
    monkeypatch.setattr("titlesmith.corpus.corpus.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'datasketch>="):
        corpora.check(corpus_settings(near_duplicates=0.8), HARVEST)
