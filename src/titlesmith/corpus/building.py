"""Building: ``papers.parquet`` becomes the files of a corpus, a batch at a time."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source
from tqdm import tqdm

from titlesmith.corpus.budget import evenly_spread
from titlesmith.corpus.corpus import Corpus, DocumentFormat
from titlesmith.corpus.documents import writing_documents
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.papers import Papers
from titlesmith.corpus.select import Selection, select
from titlesmith.corpus.split import SPLITS, split
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.runs import Run, replacing, write_json

VOCABULARY_SAMPLE = 100_000  # maximum documents of train that a vocabulary is learned from
OPENING_SAMPLE, OPENING_TOKENS = 32, 64  # documents of train that openings are measured on, and tokens of each
CATEGORIES = 100  # with separate counts in corpus.json
ROW_GROUP = 32768  # rows of a Parquet file that are read at a time
Measure = Callable[[list[list[int]], list[list[int]]], list[float]]  # openings, documents -> nats a token
SCHEMA = {"id": pl.String, "prompt": pl.String, "completion": pl.String, "published": pl.Date}


def build(run: Run, settings: dict, vocabulary: Path | None, context: int, measure: Measure | None = None) -> Corpus:
    """Builds ``corpus/`` from ``papers.parquet``, which is read twice: to select papers, and to tokenize them.

    If papers lack a field of the template, or a split would be empty, it is a RequestError. ``settings`` are the
    parameters of the corpus notebook, ``vocabulary`` is the folder of a model whose vocabulary is used (None to learn
    one from train), and ``context`` the maximum length of the model's input. ``measure`` returns the model's loss of
    documents after some openings, to choose the tokens before a document (`titlesmith.models.measure_openings`).
    """
    chosen, folder = template(settings["template"]), run / "corpus"
    papers = Papers(run / "papers.parquet", chosen, settings)

    # Select papers and assign them to splits; dropped papers stay at -1
    selection = select(papers, settings)
    splits = np.full(len(papers), -1, np.int8)
    days = selection.published[selection.kept]
    try:
        splits[selection.kept] = split(days, settings["split"], settings["order"], settings["seed"])
    except RequestError as error:
        raise RequestError(f"{error}. {selection}") from None

    # Fewer training papers than there are, evenly spaced over time
    train, limit = np.flatnonzero(splits == 0), settings["train_papers"]
    if 0 < limit < len(train):
        surplus = np.delete(train, evenly_spread(len(train), limit))
        selection.drop(f"more than {limit} training papers", surplus)
        splits[surplus] = -1

    # Load or learn the tokenizer
    nats = {}
    if vocabulary:
        tokenizer = Tokenizer.load(vocabulary)
        if measure and not chosen.chat:
            sample = _sample(papers, splits == 0, OPENING_SAMPLE)
            texts = [f"{prompt}\n{completion}".strip() for prompt, completion in sample]
            tokenizer, nats = choose_opening(tokenizer, texts, measure)
    else:
        layout = DocumentFormat(chosen, Tokenizer.learn([], 257), settings["delimiters"]).layout
        sample = _sample(papers, splits == 0, VOCABULARY_SAMPLE)
        tokenizer = Tokenizer.learn((layout.join(*pair) for pair in sample), settings["vocabulary"])
    tokenizer.save(folder)

    # Tokenize and write the splits
    layout, counts = DocumentFormat(chosen, tokenizer, settings["delimiters"]).layout, []
    with tqdm(total=int(selection.kept.sum()), unit=" documents", desc="tokenizing", ncols=80, mininterval=0.5) as bar:
        for number, name in enumerate(SPLITS):
            batches, path = papers.batches(splits == number), folder / f"{name}.bin"
            counts.append(write_split(path, batches, layout, settings | {"context": context}, selection, bar))
            if not counts[-1].height:
                raise RequestError(
                    f"corpus.template: no document of {name} is left: see corpus.min_tokens, corpus.max_tokens, "
                    f"corpus.too_long and the model's context. {selection}"
                )
    info = {
        "context": context,
        "papers": len(papers),
        "dropped": {
            reason: {"papers": len(rows), "examples": papers.examples(rows)}
            for reason, rows in selection.dropped.items()
        },
        "vocabulary": len(tokenizer),
        "opening": {"end_of_text": tokenizer.decode([tokenizer.eos_id]), "nats_per_token": nats},
    }
    write_json(folder / "corpus.json", settings | info | _count(pl.concat(counts)))
    run.finish("corpus")
    return Corpus(run)


def _sample(papers: Papers, train: np.ndarray, count: int) -> Iterator[tuple[str, str]]:
    """Prompts and completions of at most ``count`` evenly spaced documents of train; valid and test stay unseen."""
    rows = np.flatnonzero(train)
    wanted = np.zeros(len(papers), bool)
    wanted[rows[evenly_spread(len(rows), count)]] = True
    for batch in papers.batches(wanted):
        yield from zip(batch["prompt"], batch["completion"], strict=True)


def choose_opening(tokenizer: Tokenizer, texts: list[str], measure: Measure) -> tuple[Tokenizer, dict[str, float]]:
    """The tokenizer with the end of text that the model was pretrained with, and nats a token after each candidate.

    The end of text is before each document too. Of the tokenizer's openings, the one is chosen after which the model
    expects texts most: 5.7 nats a token for titles after SmolLM2's ``<|endoftext|>``, 6.8 after its ``<|im_end|>``,
    which ends messages of chats.
    """
    openings = tokenizer.openings
    documents = [tokenizer.encode(text)[:OPENING_TOKENS] for text in texts]
    nats = measure([[eos_id, *bos_ids] for eos_id, bos_ids in openings], documents) if len(openings) > 1 else []
    if not nats:
        return tokenizer, {}
    names = [tokenizer.decode([eos_id, *bos_ids]) for eos_id, bos_ids in openings]
    measured = {name: round(value, 3) for name, value in zip(names, nats, strict=True)}
    values = ", ".join(f"{value} after {name}" for name, value in measured.items())
    print(f"The model's loss in nats a token, by the tokens before a document: {values}. The lowest is used.")
    return tokenizer.with_end(*openings[int(np.argmin(nats))]), measured


def write_split(
    path: Path, batches: Iterable[pl.DataFrame], layout: TokenLayout, settings: dict, selection: Selection, bar: tqdm
) -> pl.DataFrame:
    """Writes the ids and texts of a split; returns what corpus.json counts of each document."""
    counts = []

    def texts() -> Iterator[pl.DataFrame]:
        for batch in batches:
            ids, table = tokenize(batch, layout, settings, selection)
            write(ids, table.select("first", "end").to_numpy())
            columns = ("primary_category", "published", "tokens", "size", "cut", "markup")
            counts.append(table.select(*columns, split=pl.lit(path.stem)))
            bar.update(batch.height)
            yield table.select(list(SCHEMA))

    with writing_documents(path, layout.tokenizer) as write, replacing(path.with_suffix(".parquet")) as temporary:
        register_io_source(lambda *_: texts(), schema=SCHEMA).sink_parquet(temporary, row_group_size=ROW_GROUP)
    return pl.concat(counts)


def tokenize(
    batch: pl.DataFrame, layout: TokenLayout, settings: dict, selection: Selection
) -> tuple[list[list[int]], pl.DataFrame]:
    """Tokenizes documents, and drops those with too few or too many tokens from ``selection``.

    Returns the ids of each document that is left, and the batch of these with columns ``tokens`` (of text, without
    delimiters), ``size`` (ids, without the end of text), ``cut``, and ``first`` and ``end`` of the learned ids.
    """
    fewest, most, context = settings["min_tokens"], settings["max_tokens"], settings["context"]
    prompts = layout.tokenizer.encode_batch(batch["prompt"].to_list())
    completions = layout.completion_tokenizer.encode_batch(batch["completion"].to_list())
    # Lengths in tokens; of a document that may be cut, only the part before the completion must fit
    in_prompt, in_completion = (np.array(list(map(len, ids))) for ids in (prompts, completions))
    head = len(layout.start) + in_prompt + len(layout.separator)
    size = head + in_completion + len(layout.stop)
    reasons = {}
    if fewest:
        reasons[f"fewer than {fewest} tokens"] = in_completion < fewest
    if most:
        reasons[f"more than {most} tokens"] = in_completion > most
    needed = head if settings["too_long"] == "cut" else size
    reasons[f"longer than the model's context of {context} tokens"] = needed >= context
    rows = batch["row"].to_numpy()
    for reason, mask in reasons.items():
        selection.drop(reason, rows[mask & selection.kept[rows]])

    # The documents that are left; the end of text of one that is cut is not learned
    kept = np.flatnonzero(selection.kept[rows])
    columns = {"tokens": in_prompt + in_completion, "size": np.minimum(size, context), "cut": size >= context}
    columns |= {"first": head, "end": np.minimum(size + 1, context)}
    ids = [[*layout.start, *prompts[i], *layout.separator, *completions[i], *layout.stop][:context] for i in kept]
    return ids, batch.with_columns(**{name: pl.Series(values) for name, values in columns.items()})[kept]


def _count(documents: pl.DataFrame) -> dict:
    """Numbers of documents and tokens by split, and by category; papers of category "other" have none."""
    counts = (pl.len().alias("documents"), (pl.len() / documents.height).alias("share"), pl.sum("tokens"))
    splits = documents.group_by("split", maintain_order=True).agg(
        *counts,
        pl.max("size").alias("longest"),
        pl.sum("cut", "markup"),
        pl.min("published").cast(pl.String).alias("first"),
        pl.max("published").cast(pl.String).alias("last"),
    )
    of_splits = ((pl.col("split") == name).sum().alias(name) for name in SPLITS)
    categories = documents.group_by(category=pl.col("primary_category").fill_null("other")).agg(*counts, *of_splits)
    categories = categories.sort("documents", "category", descending=[True, False]).head(CATEGORIES)
    return {"splits": {row.pop("split"): row for row in splits.to_dicts()}, "categories": categories.to_dicts()}
