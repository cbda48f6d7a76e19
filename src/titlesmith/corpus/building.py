"""Building: papers become the files of a corpus, a batch at a time."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source
from tqdm import tqdm

from titlesmith.corpus.documents import Writer
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.papers import SLICE, Papers
from titlesmith.corpus.select import Selection, select
from titlesmith.corpus.split import SPLITS, split
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.runs import Run, digest, replacing, write_json

PARALLELISM = "TOKENIZERS_PARALLELISM"
SAMPLE = 100_000  # documents of train at most that a vocabulary is learned from
CATEGORIES = 20  # that corpus.json counts one by one
FIGURES = (
    pl.len().alias("documents"),
    pl.sum("tokens"),
    pl.max("size").alias("longest"),
    pl.sum("cut"),
    pl.sum("markup"),
    pl.min("published").alias("first"),
    pl.max("published").alias("last"),
)
TOTALS = (pl.sum("documents", "tokens"), pl.max("longest"), pl.sum("cut", "markup"), pl.min("first"), pl.max("last"))
SHARE = (pl.col("documents") / pl.sum("documents")).alias("share")
SCHEMA = {"id": pl.String, "prompt": pl.String, "completion": pl.String, "published": pl.Date}


def build(run: Run, settings: dict, vocabulary: Path | None, context: int) -> None:
    """Writes ``corpus/`` from ``papers.parquet``, which is read twice: to choose papers, and to tokenize them.

    Parameters
    ----------
    run
        Where to read and write.
    settings
        The parameters of the corpus notebook.
    vocabulary
        The folder of a model whose vocabulary to use; None to learn one from train.
    context
        The longest row that the model reads; a document and an end of text on each side of it must fit.

    Raises
    ------
    RequestError
        The papers lack a field of the template, or a split is left empty.
    """
    chosen, folder = template(settings["template"]), run / "corpus"
    delimiters = "chat" if chosen.chat else settings["delimiters"]
    papers = Papers(run / "papers.parquet", chosen, settings["lowercase"], settings["markup"])
    selection = select(papers, settings)
    where = np.full(len(papers), -1, np.int8)
    days = selection.published[selection.kept]
    try:
        where[selection.kept] = split(days, settings["split"], settings["order"], settings["seed"])
    except RequestError as error:
        hint = "; corpus.order random needs no dates" if len(selection.dropped["no date"]) else ""
        raise RequestError(f"{error}. {_dropped(papers, selection)}{hint}") from None
    if vocabulary:
        tokenizer = Tokenizer.load(vocabulary)
    else:
        tokenizer = Tokenizer.learn(_sample(papers, where == 0, delimiters), settings["vocabulary"])
    saved = tokenizer.save(folder)
    layout = TokenLayout(tokenizer, delimiters, bool(chosen.prompt))
    figures = []
    with tqdm(total=len(days), unit=" documents", desc="tokenizing", ncols=110, mininterval=0.5) as bar:
        for number, name in enumerate(SPLITS):
            documents = tokenize(papers.batches(where == number), layout, settings, context, selection, bar)
            found = write_split(folder / f"{name}.bin", documents, layout)
            if not found["documents"].sum():
                raise RequestError(
                    f"corpus.template: no document of {name} is left: see corpus.min_tokens, corpus.max_tokens and "
                    f"corpus.too_long, and what the model's context is. {_dropped(papers, selection)}"
                )
            figures.append(found.with_columns(split=pl.lit(name)))
    figures = pl.concat(figures)
    fingerprint = hashlib.sha256("".join(digest(folder / name) for name in saved).encode()).hexdigest()
    write_json(
        folder / "corpus.json",
        {
            **{key: settings[key] for key in ("template", "too_long")},
            "delimiters": delimiters,
            "context": context,
            "papers": len(papers),
            "dropped": {
                reason: {"papers": len(rows), "examples": papers.examples(rows)}
                for reason, rows in selection.dropped.items()
            },
            "splits": _splits(figures),
            "categories": _categories(figures),
            "vocabulary": len(tokenizer),
            "tokenizer": fingerprint,
        },
    )


def _dropped(papers: Papers, selection: Selection) -> str:
    dropped = ", ".join(f"{reason}: {len(rows):,}" for reason, rows in selection.dropped.items() if len(rows))
    return f"Of {len(papers):,} papers were dropped: {dropped or 'none'}"


def _sample(papers: Papers, train: np.ndarray, delimiters: str) -> Iterator[str]:
    """Evenly spread documents of train, from which alone a vocabulary is learned: valid and test stay unseen."""
    rows = np.flatnonzero(train)
    wanted = np.zeros(len(papers), bool)
    wanted[rows[:: -(-len(rows) // SAMPLE)]] = True
    layout = TokenLayout(Tokenizer.learn([], 257), delimiters, bool(papers.template.prompt))
    for batch in papers.batches(wanted):
        yield from map(layout.join, batch["prompt"], batch["completion"])


def tokenize(
    batches: Iterator[pl.DataFrame], layout: TokenLayout, settings: dict, context: int, selection: Selection, bar: tqdm
) -> Iterator[tuple[list[list[int]], pl.DataFrame]]:
    """Documents of a split as ids, and beside them their texts and figures.

    Which documents are too short or too long in tokens is found here, behind the split, and added to ``selection``.

    Yields
    ------
    tuple
        The ids of each document of a batch, and the batch with columns ``tokens`` (of text, delimiters aside), ``size``
        (ids, without the end of text) and ``cut``.
    """
    cutting, fewest, most = settings["too_long"] == "cut", settings["min_tokens"], settings["max_tokens"]
    head, tail = len(layout.start) + len(layout.separator), len(layout.stop)
    for batch, prompts, completions in _encoded(batches, layout):
        learned, given = (np.array(list(map(len, ids))) for ids in (completions, prompts))
        size = head + given + learned + tail
        room = head + given if cutting else size  # what must fit; of a cut document, what is in front of its completion
        reasons = {}
        if fewest:
            reasons[f"fewer than {fewest} tokens"] = learned < fewest
        if most:
            reasons[f"more than {most} tokens"] = learned > most
        reasons[f"longer than the model's context of {context} tokens"] = room >= context
        rows = batch["row"].to_numpy()
        for reason, mask in reasons.items():
            selection.drop(reason, rows[mask & selection.kept[rows]])
        kept = np.flatnonzero(selection.kept[rows])
        figures = {"tokens": learned + given, "size": np.minimum(size, context), "cut": size >= context}
        bar.update(batch.height)
        yield (
            [[*layout.start, *prompts[i], *layout.separator, *completions[i], *layout.stop][:context] for i in kept],
            batch.with_columns(**{name: pl.Series(values) for name, values in figures.items()})[kept],
        )


def _encoded(
    batches: Iterator[pl.DataFrame], layout: TokenLayout
) -> Iterator[tuple[pl.DataFrame, list[list[int]], list[list[int]]]]:
    """Batches in their order, with the ids of their prompts and of their completions.

    A thread for each core takes whole batches, while the next are read and those before are written. The threads of
    tokenizers itself stay off meanwhile: they take longer, because all use one cache of words.
    """

    def encode(batch: pl.DataFrame) -> tuple:
        texts = (batch[column].to_list() for column in ("prompt", "completion"))
        return batch, *map(layout.tokenizer.encode_batch, texts)

    threads, waiting = os.cpu_count() or 1, deque()
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        with ThreadPoolExecutor(threads) as pool:
            for batch in batches:
                waiting.append(pool.submit(encode, batch))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        os.environ.pop(PARALLELISM)
        if before is not None:
            os.environ[PARALLELISM] = before


def write_split(
    path: Path, documents: Iterator[tuple[list[list[int]], pl.DataFrame]], layout: TokenLayout
) -> pl.DataFrame:
    """Writes a split's three files; gives the figures of each batch by category."""
    figures = []

    def tables() -> Iterator[pl.DataFrame]:
        for ids, table in documents:
            writer.append(ids)
            figures.append(table.group_by("primary_category").agg(FIGURES))
            yield table.select(list(SCHEMA))

    with Writer(path, layout.tokenizer) as writer, replacing(path.with_suffix(".parquet")) as temporary:
        register_io_source(lambda *_: tables(), schema=SCHEMA).sink_parquet(temporary, row_group_size=SLICE)
    return pl.concat(figures)


def _splits(figures: pl.DataFrame) -> dict[str, dict]:
    found = figures.group_by("split", maintain_order=True).agg(TOTALS)
    found = found.select("split", "documents", SHARE, pl.exclude("split", "documents"))
    return {row.pop("split"): row for row in found.with_columns(pl.col("first", "last").cast(pl.String)).to_dicts()}


def _categories(figures: pl.DataFrame) -> list[dict]:
    """The most frequent categories, and the others together; documents of each split in columns."""
    splits = [pl.col("documents").filter(pl.col("split") == name).sum().alias(name) for name in SPLITS]
    ranked = figures.group_by(category="primary_category").agg(pl.sum("documents")).sort("documents", "category",
        descending=[True, False], nulls_last=True)["category"].drop_nulls()  # fmt: skip
    named = pl.when(pl.col("primary_category").is_in(ranked.head(CATEGORIES).implode())).then("primary_category")
    return (
        figures.group_by(category=named.otherwise(pl.lit("other")))
        .agg(pl.sum("documents", "tokens"), *splits)
        .sort(pl.col("category") == "other", "documents", "category", descending=[False, True, False])
        .select("category", "documents", SHARE, "tokens", *SPLITS)
        .to_dicts()
    )
