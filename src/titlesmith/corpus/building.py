"""Building: ``papers.parquet`` becomes the files of a corpus, a batch at a time."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source
from tqdm import tqdm

from titlesmith.corpus.documents import DocumentWriter
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.papers import SLICE, Papers
from titlesmith.corpus.select import Selection, select
from titlesmith.corpus.split import SPLITS, split
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.runs import Run, digest, replacing, write_json

VOCABULARY_SAMPLE = 100_000  # maximum documents of train that a vocabulary is learned from
OPENING_SAMPLE, OPENING_TOKENS = 32, 64  # documents of train that openings are measured on, and tokens of each
CATEGORIES = 20  # with separate counts in corpus.json
Measure = Callable[[list[list[int]], list[list[int]]], list[float]]  # openings, documents -> nats a token
COUNTS = (
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


def build_files(run: Run, settings: dict, vocabulary: Path | None, context: int, measure: Measure | None) -> None:
    """Writes ``corpus/`` from ``papers.parquet``, which is read twice: to select papers, and to tokenize them.

    Parameters are those of `titlesmith.corpus.build`.
    """
    chosen, folder = template(settings["template"]), run / "corpus"
    delimiters = "chat" if chosen.chat else settings["delimiters"]
    papers = Papers(run / "papers.parquet", chosen, settings)

    # Select papers and assign them to splits; dropped papers stay at -1
    selection = select(papers, settings)
    splits = np.full(len(papers), -1, np.int8)
    days = selection.published[selection.kept]
    try:
        splits[selection.kept] = split(days, settings["split"], settings["order"], settings["seed"])
    except RequestError as error:
        hint = "; corpus.order random needs no dates" if len(selection.dropped["no date"]) else ""
        raise RequestError(f"{error}. {_dropped(papers, selection)}{hint}") from None

    # Fewer training papers than there are, evenly spaced over time
    train, limit = np.flatnonzero(splits == 0), settings["train_papers"]
    if 0 < limit < len(train):
        surplus = np.delete(train, np.arange(limit) * len(train) // limit)
        selection.drop(f"more than {limit} training papers", surplus)
        splits[surplus] = -1

    # Load or learn the tokenizer
    if vocabulary:
        tokenizer = Tokenizer.load(vocabulary)
    else:
        layout = TokenLayout(Tokenizer.learn([], 257), delimiters, bool(chosen.prompt))
        sample = _sample(papers, splits == 0, VOCABULARY_SAMPLE)
        tokenizer = Tokenizer.learn((layout.join(*pair) for pair in sample), settings["vocabulary"])
    opening: dict = {"bos_ids": list(tokenizer.bos_ids)}
    if measure and not chosen.chat and len(tokenizer.openings) > 1:
        tokenizer, opening = _choose_opening(tokenizer, _sample(papers, splits == 0, OPENING_SAMPLE), measure)
    files = tokenizer.save(folder)
    fingerprint = hashlib.sha256("".join(digest(folder / name) for name in files).encode()).hexdigest()

    # Tokenize and write the splits
    layout = TokenLayout(tokenizer, delimiters, bool(chosen.prompt), opening["bos_ids"])
    counts = []
    with tqdm(total=int(selection.kept.sum()), unit=" documents", desc="tokenizing", ncols=80, mininterval=0.5) as bar:
        for number, name in enumerate(SPLITS):
            documents = tokenize(papers.batches(splits == number), layout, settings, context, selection, bar)
            counts.append(write_split(folder / f"{name}.bin", documents, layout).with_columns(split=pl.lit(name)))
            if not counts[-1]["documents"].sum():
                raise RequestError(
                    f"corpus.template: no document of {name} is left: see corpus.min_tokens, corpus.max_tokens, "
                    f"corpus.too_long and the model's context. {_dropped(papers, selection)}"
                )
    counts, dropped = pl.concat(counts), selection.dropped.items()
    info = {
        "template": settings["template"],
        "too_long": settings["too_long"],
        "delimiters": delimiters,
        "context": context,
        "papers": len(papers),
        "dropped": {reason: {"papers": len(rows), "examples": papers.examples(rows)} for reason, rows in dropped},
        "splits": _count_splits(counts),
        "categories": _count_categories(counts),
        "vocabulary": len(tokenizer),
        "tokenizer": fingerprint,
        "opening": {"end_of_text": tokenizer.decode([tokenizer.eos_id])} | opening,
    }
    write_json(folder / "corpus.json", info)


def _dropped(papers: Papers, selection: Selection) -> str:
    dropped = ", ".join(f"{reason}: {len(rows):,}" for reason, rows in selection.dropped.items() if len(rows))
    return f"Of {len(papers):,} papers were dropped: {dropped or 'none'}"


def _sample(papers: Papers, train: np.ndarray, count: int) -> Iterator[tuple[str, str]]:
    """Prompts and completions of at most ``count`` evenly spaced documents of train; valid and test stay unseen."""
    rows = np.flatnonzero(train)
    wanted = np.zeros(len(papers), bool)
    wanted[rows[:: -(-len(rows) // count)]] = True
    for batch in papers.batches(wanted):
        yield from zip(batch["prompt"], batch["completion"], strict=True)


def _choose_opening(
    tokenizer: Tokenizer, sample: Iterator[tuple[str, str]], measure: Measure
) -> tuple[Tokenizer, dict]:
    """The tokenizer with the end of text that the model was pretrained with, and what corpus.json says about it.

    The end of text is before each document too. Of the tokenizer's openings, the one is chosen after which the model
    expects real documents most: 5.7 nats a token for titles after SmolLM2's ``<|endoftext|>``, 6.8 after its
    ``<|im_end|>``, which ends messages of chats.
    """
    documents = [tokenizer.encode(f"{prompt}\n{completion}".strip())[:OPENING_TOKENS] for prompt, completion in sample]
    openings = tokenizer.openings
    nats = measure([[eos_id, *bos_ids] for eos_id, bos_ids in openings], documents)
    if not nats:
        return tokenizer, {"bos_ids": list(tokenizer.bos_ids)}
    names = [tokenizer.decode([eos_id, *bos_ids]) for eos_id, bos_ids in openings]
    measured = dict(zip(names, (round(value, 3) for value in nats), strict=True))
    eos_id, bos_ids = openings[int(np.argmin(nats))]
    values = ", ".join(f"{n:.2f} after {text}" for text, n in measured.items())
    print(f"The model's loss in nats a token, by the tokens before a document: {values}. The lowest is used.")
    return tokenizer.with_end(eos_id), {"bos_ids": list(bos_ids), "nats_per_token": measured}


def tokenize(
    batches: Iterator[pl.DataFrame], layout: TokenLayout, settings: dict, context: int, selection: Selection, bar: tqdm
) -> Iterator[tuple[list[list[int]], pl.DataFrame]]:
    """Tokenizes the documents of a split, and drops those with too few or too many tokens from ``selection``.

    Yields the ids of each document of a batch, and the batch with columns ``tokens`` (of text, without delimiters),
    ``size`` (ids, without the end of text) and ``cut``.
    """
    cutting, fewest, most = settings["too_long"] == "cut", settings["min_tokens"], settings["max_tokens"]
    for batch, prompts, completions in _encode(batches, layout):
        # Lengths in tokens; of a document that may be cut, only the part before the completion must fit
        in_prompt, in_completion = (np.array(list(map(len, ids))) for ids in (prompts, completions))
        head = len(layout.start) + in_prompt + len(layout.separator)
        size = head + in_completion + len(layout.stop)
        reasons = {}
        if fewest:
            reasons[f"fewer than {fewest} tokens"] = in_completion < fewest
        if most:
            reasons[f"more than {most} tokens"] = in_completion > most
        reasons[f"longer than the model's context of {context} tokens"] = (head if cutting else size) >= context
        rows = batch["row"].to_numpy()
        for reason, mask in reasons.items():
            selection.drop(reason, rows[mask & selection.kept[rows]])

        # The documents that are left
        kept = np.flatnonzero(selection.kept[rows])
        lengths = {"tokens": in_prompt + in_completion, "size": np.minimum(size, context), "cut": size >= context}
        bar.update(batch.height)
        yield (
            [[*layout.start, *prompts[i], *layout.separator, *completions[i], *layout.stop][:context] for i in kept],
            batch.with_columns(**{name: pl.Series(values) for name, values in lengths.items()})[kept],
        )


def _encode(
    batches: Iterator[pl.DataFrame], layout: TokenLayout
) -> Iterator[tuple[pl.DataFrame, list[list[int]], list[list[int]]]]:
    """Batches in their order, with the ids of their prompts and of their completions.

    One thread a core encodes batches. The threads of tokenizers itself are off: they share one cache, which is slower.
    """

    def encode(batch: pl.DataFrame) -> tuple:
        tokenizers = {"prompt": layout.tokenizer, "completion": layout.completion_tokenizer}
        return batch, *(tokenizer.encode_batch(batch[column].to_list()) for column, tokenizer in tokenizers.items())

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threads, waiting = os.cpu_count() or 1, deque()
    with ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            waiting.append(pool.submit(encode, batch))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def write_split(
    path: Path, documents: Iterator[tuple[list[list[int]], pl.DataFrame]], layout: TokenLayout
) -> pl.DataFrame:
    """Writes a split's ids and texts; returns the `COUNTS` of each batch by category."""
    counts = []

    def texts() -> Iterator[pl.DataFrame]:
        for ids, table in documents:
            writer.append(ids)
            counts.append(table.group_by("primary_category").agg(COUNTS))
            yield table.select(list(SCHEMA))

    with DocumentWriter(path, layout.tokenizer) as writer, replacing(path.with_suffix(".parquet")) as temporary:
        register_io_source(lambda *_: texts(), schema=SCHEMA).sink_parquet(temporary, row_group_size=SLICE)
    return pl.concat(counts)


def _count_splits(counts: pl.DataFrame) -> dict[str, dict]:
    table = counts.group_by("split", maintain_order=True).agg(TOTALS)
    table = table.select("split", "documents", SHARE, pl.exclude("split", "documents"))
    return {row.pop("split"): row for row in table.with_columns(pl.col("first", "last").cast(pl.String)).to_dicts()}


def _count_categories(counts: pl.DataFrame) -> list[dict]:
    """Documents and tokens of the most frequent categories, and of the others together."""
    category, documents = pl.col("primary_category"), pl.col("documents")
    ranked = (
        counts.group_by(category)
        .agg(documents.sum())
        .sort("documents", "primary_category", descending=[True, False], nulls_last=True)
    )
    named = category.is_in(ranked["primary_category"].drop_nulls().head(CATEGORIES).implode())
    splits = [documents.filter(pl.col("split") == name).sum().alias(name) for name in SPLITS]
    return (
        counts.group_by(category=pl.when(named).then(category).otherwise(pl.lit("other")))
        .agg(pl.sum("documents", "tokens"), *splits)
        .sort(pl.col("category") == "other", "documents", "category", descending=[False, True, False])
        .select("category", "documents", SHARE, "tokens", *SPLITS)
        .to_dicts()
    )
