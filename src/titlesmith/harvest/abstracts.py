"""Three abstracts: ChatGenTitle's comparison (Focus-RCNet, ShuffleNet, Segment Anything), for any run that reads them.

The texts are not part of titlesmith. `fetch` asks arXiv for them once; a run whose template makes a title of an
abstract then writes titles for them while it is evaluated, and the book shows these side by side.
"""

import csv
from pathlib import Path

from titlesmith.corpus.clean import clean, fold
from titlesmith.corpus.template import Template
from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.harvest import arxiv
from titlesmith.runs import replacing, root

FILE = "book/three-abstracts.csv"
PAPERS = {  # title, and how arXiv finds it
    "Focus-RCNet: A lightweight recyclable waste classification algorithm based on Focus and knowledge distillation": {
        "search_query": "ti:RCNet AND ti:recyclable"
    },
    "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices": {"id_list": "1707.01083"},
    "Segment Anything": {"id_list": "2304.02643"},
}


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
