"""Three abstracts: ChatGenTitle's comparison (Focus-RCNet, ShuffleNet, Segment Anything), for any run that reads them.

The texts are not part of titlesmith. `fetch` asks arXiv for them once; a run whose template makes a title of an
abstract then writes titles for them while it is evaluated, and the book shows these side by side.
"""

import csv
from pathlib import Path

from titlesmith import tables
from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import clean, fold
from titlesmith.corpus.template import Template, template
from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.harvest import arxiv
from titlesmith.runs.record import Run, replacing, root
from titlesmith.train.loop import SAMPLING, Engine

FILE = "book/three-abstracts.csv"
PAPERS = {  # title, and how arXiv finds it
    "Focus-RCNet: A lightweight recyclable waste classification algorithm based on Focus and knowledge distillation": {
        "search_query": "ti:RCNet AND ti:recyclable"
    },
    "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices": {"id_list": "1707.01083"},
    "Segment Anything": {"id_list": "2304.02643"},
}
COUNT = 3  # titles an abstract
TOKENS, SHORTEST = 48, 8  # of a title: at most, and room for at least so many


def fetch(address: str = "") -> Path:
    """Writes the three titles and abstracts into `FILE`, from arXiv or from a service at another address.

    Raises
    ------
    FetchError
        The service cannot be asked, or gives another paper than the one that is meant; nothing is written.
    """
    path, session = root() / FILE, arxiv.new_session()
    rows = []
    for title, query in PAPERS.items():
        try:
            papers, _ = arxiv.search(session, address, query)
        except (RequestError, RunError) as error:
            raise FetchError(f"arXiv cannot be asked for {title!r}: {error}") from None
        abstract = next((clean(paper["abstract"]) for paper in papers if fold(paper["title"] or "") == fold(title)), "")
        if not abstract:
            raise FetchError(f"arXiv has no paper {title!r} where it was: write its title and abstract into {path}")
        rows.append((title, abstract))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("title", "abstract"), *rows])
    return path


def read(path: Path) -> list[tuple[str, str]]:
    """Titles and abstracts of a CSV file; none where there is no file.

    Raises
    ------
    RequestError
        It is no such file.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [(clean(row["title"]), clean(row["abstract"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error):
        raise RequestError(f"evaluate.path: {path} is no CSV file in UTF-8 with columns title and abstract") from None


def takes(form: Template) -> bool:
    """Whether a template makes a title of an abstract."""
    return form.fields == ["abstract", "title"] and "{title}" in form.completion


def titles(run: Run, engine: Engine, corpus: Corpus, settings: dict) -> list[dict]:
    """Titles that a model writes for the abstracts of a file, drawn as the run's texts were.

    Parameters
    ----------
    run, engine, corpus
        The run, its model, and what that was trained on.
    settings
        ``path`` of the file, as seen from the project, and ``seed``.

    Returns
    -------
    list of dict
        For each abstract its real ``title``, and the ``titles`` drawn, likeliest first, or ``why`` there are none.
        Nothing where the template is another one or the file is not there.
    """
    if not takes(corpus.template):
        return []
    rows, lower = [], run.record("corpus")["settings"]["lowercase"]
    for title, abstract in read(root() / settings["path"]):
        prompt = corpus.template.fill_prompt({"abstract": abstract.lower() if lower else abstract})
        opening = corpus.layout.prompt_ids(prompt)
        tokens = min(TOKENS, engine.context - len(opening))
        if tokens < SHORTEST:
            why = f"the abstract has {len(opening):,} tokens, and the model reads {engine.context:,}"
            rows.append({"title": title, "titles": [], "why": why})
            continue
        given = SAMPLING | run.record("generate")["settings"] | {"seed": settings["seed"], "count": COUNT}
        draws = engine.generate([opening], given | {"beams": 1, "min_tokens": 0, "max_tokens": tokens})[0]
        draws = sorted(draws, key=lambda draw: -draw.logprob)
        rows.append({"title": title, "titles": [corpus.layout.decode(draw.ids) for draw in draws]})
    return rows


def page(runs: list[Run]) -> str:
    """What runs wrote for the abstracts, a table for each, in HTML; where there is nothing, what to do."""
    written = {run.name: found for run in runs if (found := run.metrics.get("three_abstracts"))}
    forms = {run.name: template(run.record("corpus")["settings"]["template"]) for run in runs}
    slots = [name for name, form in forms.items() if name not in written and takes(form)]
    parts = []
    for name, found in written.items():
        rows = [{"real": row["title"], "titles": " / ".join(row["titles"]) or row["why"]} for row in found]
        parts.append(f"## {name}\n\n{tables.html(rows, {'real': 'real title', 'titles': 'titles by the model'})}")
    for name in slots:
        parts.append(
            f"## {name}\n\nThis run writes titles of abstracts and has not been given these: fetch them as below, and "
            "run its experiment again, which measures it anew."
        )
    return "\n\n".join(parts) or "No run that is shown here reads abstracts and writes titles."
