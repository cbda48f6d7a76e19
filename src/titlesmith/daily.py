"""Every day: titles for a run's new papers, and a new training when there are enough of them.

``runs/<run>/daily.jsonl`` has a line for each paper of the last days, which the book shows: the ``day`` on which arXiv
announced it, its ``id``, ``category`` and ``title``, and the generated ``titles``; without the last three, a paper of
earlier days. New papers are listed without a change to the run: a new training merges them.
"""

import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from operator import itemgetter
from pathlib import Path

import polars as pl
from tqdm import tqdm

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import clean
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError, shorten
from titlesmith.evaluate.abstracts import makes_titles
from titlesmith.experiment import Experiment
from titlesmith.generate import GenerationSettings, TextGenerator, open_backend
from titlesmith.generate.prompts import Request
from titlesmith.harvest import changes
from titlesmith.pipeline import chain
from titlesmith.runs import Run, chain_lock, replacing
from titlesmith.update import update

FILE = "daily.jsonl"
DAYS = 30  # whose papers stay, counted back from the newest
TITLES = 3  # per paper


def daily(
    experiment: Experiment, name: str | None = None, retrain: int = 1000, echo: Callable[[str], None] = print
) -> list[dict]:
    """Does what a day needs, and returns the rows of `FILE`; a second time on the same day, nothing.

    An interrupted call resumes, and a missed day is caught up by the next call. The run, by default of the experiment's
    name, is trained first if it is not finished, and again when ``retrain`` papers are new (0: never). RequestError:
    its papers are not arXiv's, or its template does not make titles from abstracts.
    """
    run = Run(name or experiment.name)
    changes.check(experiment.settings["harvest"], f"run {run.name}")
    if not makes_titles(template(written := experiment.settings["corpus"]["template"])):
        raise RequestError(f"corpus.template: {shorten(written)} does not make titles from abstracts")
    chain(experiment, run.name, echo=echo)
    with chain_lock(run.path):
        known = changes.fetch(run, run.record("harvest")["settings"])
        rows = write_titles(run, changes.added(run))
    echo(f"run {run.name}: {known['counts']['new']:,} papers are newer than its training")
    if 0 < retrain <= known["counts"]["new"]:
        update(run, echo)
        chain(experiment, run.name, echo=echo)
    return rows


def write_titles(run: Run, papers: pl.DataFrame) -> list[dict]:
    """Generates titles for papers that `FILE` lacks, block by block; of earlier days, only the last `DAYS` stay."""
    rows = run.daily
    newest = max([*(row["day"] for row in rows), *papers["announced"]], default="1970-01-01")
    first = (date.fromisoformat(newest) - timedelta(days=DAYS - 1)).isoformat()
    # Of older days, the ids of papers that arXiv may list again stay, so that none is shown twice
    listed, known = set(papers["id"]), {row["id"] for row in rows}
    kept = [{key: row[key] for key in ("day", "id")} for row in rows if row["day"] < first and row["id"] in listed]
    kept += [row for row in rows if row["day"] >= first]
    new = papers.filter(pl.col("announced") >= first, ~pl.col("id").is_in(known)).to_dicts()
    if kept != rows:
        _write(run / FILE, kept)
    for block in generate(run, new) if new else ():
        kept += block
        _write(run / FILE, kept)
    return kept


def generate(run: Run, papers: list[dict]) -> Iterator[list[dict]]:
    """Rows of `FILE`, in blocks; a paper whose abstract is too long for the model has no titles."""
    corpus, backend = Corpus(run), open_backend(run)
    settings = run.record("generate")["settings"]
    settings = GenerationSettings.of(settings | {"count": min(TITLES, settings["count"])})
    room = backend.context - settings.max_tokens
    requests = []
    for paper in papers:
        prompt = corpus.template.fill_prompt({"abstract": corpus.clean(paper["abstract"] or "")})
        if len(corpus.layout.prompt_ids(prompt)) <= room:
            requests.append(Request(prompt, paper=paper["id"]))
    by_id = {paper["id"]: paper for paper in papers}
    yield [_row(by_id[number], []) for number in by_id.keys() - {request.paper for request in requests}]
    generator = TextGenerator(backend, corpus, requests, settings)
    for number, block in enumerate(tqdm(generator.blocks, desc="titles", unit=" blocks")):
        titles: dict[str, list[str]] = {requests[i].paper: [] for i in block}
        for row in generator.block(number):
            if row["finished"]:
                titles[row["paper"]].append(row["text"])
        yield [_row(by_id[paper], texts) for paper, texts in titles.items()]


def _row(paper: dict, titles: list[str]) -> dict:
    title = clean(paper["title"] or "")
    row = {"day": paper["announced"], "id": paper["id"], "category": paper["primary_category"], "title": title}
    return row | {"titles": titles}


def _write(path: Path, rows: list[dict]) -> None:
    rows = sorted(rows, key=itemgetter("day", "id"))
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
