"""Makes a large snapshot in the layout of Kaggle's arXiv dataset from the real papers of the ArXiV Archive.

    python benchmarks/snapshot.py 100000 snapshot.json

Every record has a separate id and separate texts: from the second round over the real papers on, a title is the
first half of one and the second half of another, and an abstract opens with another's first sentence. Submission dates
spread evenly from 1991 to 2025, and, as in the original, records are in the order of their ids with the older form of
id (before April 2007) at the end. The same number of records always makes the same file.
"""

import json
import lzma
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

DATA = Path(os.environ.get("TITLESMITH_DATA", Path(__file__).parents[2] / "shared" / "data"))
FIRST, NEW_IDS, LAST = datetime(1991, 8, 14), datetime(2007, 4, 1), datetime(2025, 6, 30)
OLD_SHARE = 0.08  # of all records, those with the older form of id
ARCHIVES = ["cmp-lg", "cs", "math", "physics", "hep-th", "hep-ph", "astro-ph", "cond-mat", "quant-ph", "gr-qc"]
encode = json.JSONEncoder(separators=(",", ":")).encode


def write(path: Path, records: int) -> Path:
    """Writes a snapshot of ``records`` papers, one JSON object a line, and returns its path."""
    with path.open("w", encoding="ascii", buffering=1 << 20) as file:
        file.writelines(lines(records))
    return path


def lines(records: int) -> Iterator[str]:
    """The lines of a snapshot of ``records`` papers, each about 1.6 kB."""
    files = sorted(DATA.glob("arxiv/*.*.tsv.xz"))
    if not files:
        raise SystemExit(f"there is no arxiv/cs.CL.tsv.xz or the like in {DATA}: set TITLESMITH_DATA to another folder")
    tables = [pl.read_csv(lzma.decompress(f.read_bytes()), separator="\t", infer_schema=False) for f in files]
    real = pl.concat(tables).unique("title", keep="first", maintain_order=True)
    papers = [_fragments(paper) for paper in real.iter_rows(named=True)]
    old = round(records * OLD_SHARE)
    for number, (created, identifier) in enumerate(_submissions(records - old, NEW_IDS, LAST, False)):
        yield _line(papers, number, created, identifier)
    for number, (created, identifier) in enumerate(_submissions(old, FIRST, NEW_IDS, True), records - old):
        yield _line(papers, number, created, identifier)


def _submissions(records: int, first: datetime, end: datetime, old: bool) -> Iterator[tuple[datetime, str]]:
    """Evenly spread times with ids that count through the months."""
    month, count = "", 0
    for number in range(records):
        created = first + (end - first) / records * number
        month, count = (m := created.strftime("%y%m")), count + 1 if m == month else 0
        archive = ARCHIVES[count % len(ARCHIVES)]
        yield created, f"{archive}/{month}{count // len(ARCHIVES):03d}" if old else f"{month}.{count:05d}"


def _fragments(paper: dict) -> dict:
    """What of a paper stays as it is, encoded; and the parts of its title and abstract."""
    words = paper["title"].split()
    sentence, stop, rest = (paper["abstract"] or "").strip().partition(". ")
    authors = paper["author_text"] or "Anonymous"
    parsed = [[*reversed(name.rsplit(" ", 1)), ""] for name in authors.split(", ")]
    return {
        "head": f'"submitter":{encode(authors.split(", ")[0])},"authors":{encode(authors)},"title":',
        "title": (" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])),
        "middle": f',"comments":{encode(paper["comments"])},"journal-ref":null,"doi":{encode(paper["doi"])},'
        f'"report-no":null,"categories":{encode(paper["categories"].replace(",", " "))},'
        '"license":"http://arxiv.org/licenses/nonexclusive-distrib/1.0/","abstract":',
        "abstract": (encode("  " + sentence + stop)[:-1], encode(rest + "\n")[1:]),
        "tail": f',"authors_parsed":{encode(parsed)}}}\n',
    }


def _line(papers: list[dict], number: int, created: datetime, identifier: str) -> str:
    turn, place = divmod(number, len(papers))
    paper, other = papers[place], papers[(place + turn) % len(papers)]
    title = encode(f"{other['title'][0]} {paper['title'][1]}".strip())
    versions = [created, created + timedelta(days=30)][: 1 + number % 3 % 2]
    stamps = ",".join(
        f'{{"version":"v{v}","created":"{at:%a}, {at.day} {at:%b %Y %H:%M:%S} GMT"}}'
        for v, at in enumerate(versions, 1)
    )
    return (
        f'{{"id":"{identifier}",{paper["head"]}{title}{paper["middle"]}{other["abstract"][0]}{paper["abstract"][1]},'
        f'"versions":[{stamps}],"update_date":"{versions[-1]:%Y-%m-%d}"{paper["tail"]}'
    )


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[1].isdigit():
        sys.exit("use: python benchmarks/snapshot.py RECORDS FILE")
    write(Path(sys.argv[2]), int(sys.argv[1]))
