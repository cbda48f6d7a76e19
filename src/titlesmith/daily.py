"""Every day: what arXiv has changed, titles for a run's new papers, a new training when there are enough of them.

``runs/<run>/daily.jsonl`` has a line for each paper of the last days, which the book shows: the ``day`` on which arXiv
announced it, its ``id``, ``category`` and ``title``, and the generated ``titles``; without the last three, a paper of
earlier days. New papers are listed without a change to the run: a new training merges them.
"""

import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from operator import itemgetter

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
from titlesmith.pipeline import chain, execute, source
from titlesmith.runs import Run, chain_lock, open_run, remove, replacing

FILE = "daily.jsonl"
DAYS = 30  # whose papers stay, counted back from the newest
TITLES = 3  # per paper


def update(run: Run, echo: Callable[[str], None] = print) -> dict[str, int]:
    """Updates a run's papers, from whatever source of arXiv's papers they came.

    The changes are listed and compared first, which leaves the run unchanged, also if the service fails (RunError);
    then the harvest's notebook merges them. After an interruption, the same command resumes.

    Returns the numbers of listed papers: ``new``, ``changed``, ``deleted`` or outside of the run's filters, and
    ``unchanged``. RequestError: there is no such run, its harvest is out of date, or OAI-PMH does not list its papers.
    """
    open_run(run.name)
    with chain_lock(run.path):
        settings = run.record("harvest").get("settings", {})
        changes.check(settings, f"run {run.name}")
        if run.record("harvest")["fingerprint"] != run.fingerprint("harvest", settings, source("harvest")):
            changed = "its notebook, titlesmith or a file that it reads has changed since it was harvested"
            raise RequestError(f"run {run.name} cannot be updated: {changed}; titlesmith run harvests it again")
        run.verify("harvest")
        if run.is_current("harvest") or not changes.waiting(run):  # else a merge was interrupted
            run.require("harvest")
            changes.fetch(run, settings)
        known = changes.state(run)
        echo(f"run {run.name}: changes since {known['since'] or 'the first one'}")
        if any(known["counts"][kind] for kind in ("new", "changed", "deleted")):
            execute(run, "harvest", settings)
        run.update_stage("harvest", requested=known["day"], update=known["counts"])
        remove(run / "update")
    return known["counts"]


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
    """Generates titles for papers that `FILE` lacks, block by block; of days before the last `DAYS`, only ids stay."""
    rows = run.daily
    newest = max([*(row["day"] for row in rows), *papers["announced"]], default="1970-01-01")
    first = (date.fromisoformat(newest) - timedelta(days=DAYS - 1)).isoformat()
    # Of older days, the ids stay: arXiv lists a paper again when it changes, and none is shown twice
    rows = [row if row["day"] >= first else {"day": row["day"], "id": row["id"]} for row in rows]
    known = [row["id"] for row in rows]
    new = papers.filter(pl.col("announced") >= first, ~pl.col("id").is_in(known)).to_dicts()
    for block in generate(run, new) if new else ():
        rows = sorted([*rows, *block], key=itemgetter("day", "id"))
        with replacing(run / FILE) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return rows


def generate(run: Run, papers: list[dict]) -> Iterator[list[dict]]:
    """Rows of `FILE`, in blocks; a paper whose abstract is too long for the model has no titles."""
    corpus, backend = Corpus(run), open_backend(run)
    settings = run.record("generate")["settings"]
    settings = GenerationSettings.of(settings | {"count": min(TITLES, settings["count"])})
    rows, requests = {}, []
    for paper in papers:
        row = {"day": paper["announced"], "id": paper["id"], "category": paper["primary_category"]}
        rows[paper["id"]] = row | {"title": clean(paper["title"] or ""), "titles": []}
        prompt = corpus.template.fill_prompt({"abstract": corpus.clean(paper["abstract"] or "")})
        if len(corpus.layout.prompt_ids(prompt)) <= backend.context - settings.max_tokens:
            requests.append(Request(prompt, paper=paper["id"]))
    yield [rows[number] for number in rows.keys() - {request.paper for request in requests}]
    generator = TextGenerator(backend, corpus, requests, settings)
    for number, block in enumerate(tqdm(generator.blocks, desc="titles", unit=" blocks")):
        for text in generator.block(number):
            rows[text["paper"]]["titles"] += [text["text"]] if text["finished"] else []
        yield [rows[requests[i].paper] for i in block]
