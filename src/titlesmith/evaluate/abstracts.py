"""Titles that runs generate for three well-known abstracts (ChatGenTitle's comparison), or for those of another file.

The abstracts are not part of titlesmith: `fetch` downloads them from arXiv once. The book shows the titles.
"""

import csv
from pathlib import Path

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import clean, fold
from titlesmith.corpus.template import Template
from titlesmith.errors import FetchError, RequestError
from titlesmith.generate import GenerationSettings, open_backend
from titlesmith.harvest import arxiv
from titlesmith.runs import Run, replacing, root

FILE = "book/three-abstracts.csv"
PAPERS = {  # title, and the arXiv query that returns it
    "Focus-RCNet: A lightweight recyclable waste classification algorithm based on Focus and knowledge distillation": {
        "search_query": "ti:RCNet AND ti:recyclable"
    },
    "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices": {"id_list": "1707.01083"},
    "Segment Anything": {"id_list": "2304.02643"},
}
COUNT = 3  # titles per abstract
TOKENS, MIN_TOKENS = 48, 8  # maximum length of a title, and the minimum room for one


def fetch(address: str = "") -> Path:
    """Writes the titles and abstracts to `FILE`, from arXiv or another service; on an error, nothing."""
    rows = []
    for title, query in PAPERS.items():
        papers, _ = arxiv.search(address, query)
        abstract = next((paper["abstract"] for paper in papers if fold(paper["title"] or "") == fold(title)), "")
        if not abstract:
            raise FetchError(f"arXiv returned no paper {title!r}: write its title and abstract into {root() / FILE}")
        rows.append((title, clean(abstract)))
    return _write(root() / FILE, rows)


def fetch_of(file: Path, address: str = "") -> Path:
    """Writes titles and abstracts of the papers in a CSV file, by its column ``arxiv_id``, next to it.

    The titles are the file's, because those of arXiv may have changed. Papers without an id are skipped.
    """
    titles = {number: title for title, number in read(file, "title", "arxiv_id") if number}
    papers, _ = arxiv.search(address, {"id_list": ",".join(titles)}, size=len(titles))
    abstracts = {paper["id"]: clean(paper["abstract"] or "") for paper in papers}
    if missing := [number for number in titles if not abstracts.get(number)]:
        raise FetchError(f"arXiv returned no abstract of {', '.join(missing)}: check arxiv_id in {file}")
    rows = [(title, abstracts[number]) for number, title in titles.items()]
    return _write(file.with_name(f"{file.stem}-abstracts.csv"), rows)


def _write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("title", "abstract"), *rows])
    return path


def read(path: Path, *columns: str) -> list[tuple[str, ...]]:
    """The cleaned texts of some columns of a CSV file (RequestError if it has not got them)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [tuple(clean(row[column]) for column in columns) for row in csv.DictReader(file)]
    except (OSError, KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} is not a CSV file in UTF-8 with columns {', '.join(columns)}: {error}") from None


def makes_titles(template: Template) -> bool:
    """Whether a template makes a title from an abstract."""
    fields = [*template.required_fields, *template.completion_fields]
    return fields == ["abstract", "title"] and "{title}" in template.completion


def titles(run: Run, corpus: Corpus, settings: dict) -> list[dict]:
    """Generates titles for the abstracts of the file ``settings["path"]``, with the settings of the run's texts.

    Returns for each abstract its real ``title``, and the generated ``titles``, likeliest first, or ``why`` there are
    none. Empty if the template does not make titles from abstracts, or the file does not exist.
    """
    path = root() / settings["path"]
    if not makes_titles(corpus.template) or not path.is_file():
        return []
    rows, backend = [], open_backend(run)
    own = run.record("generate")["settings"] | {"unique": False, "best_of": 1, "beams": 1, "min_tokens": 0}
    for title, abstract in read(path, "title", "abstract"):
        prompt = corpus.template.fill_prompt({"abstract": corpus.clean(abstract)})
        opening = corpus.layout.prompt_ids(prompt)
        tokens = min(TOKENS, backend.context - len(opening))
        if tokens < MIN_TOKENS:
            why = f"the abstract has {len(opening):,} tokens, and the model's context is {backend.context:,}"
            rows.append({"title": title, "titles": [], "why": why})
            continue
        own |= {"seed": settings["seed"], "count": COUNT, "max_tokens": tokens}
        (completions,) = backend.generate([opening], GenerationSettings.of(own))
        completions.sort(key=lambda completion: -completion.logprob)
        rows.append({"title": title, "titles": [corpus.layout.decode(completion.ids) for completion in completions]})
    return rows
