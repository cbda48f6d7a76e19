"""arXiv's search API: an Atom feed with OpenSearch's counts, as export.arxiv.org/api/query gives it."""

import re
from fnmatch import fnmatch
from xml.sax.saxutils import escape

from servers.base import Paper, Service

FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" \
xmlns:arxiv="http://arxiv.org/schemas/atom">
  <link href="http://arxiv.org/api/query?{query}" rel="self" type="application/atom+xml"/>
  <title type="html">ArXiv Query: {query}</title>
  <opensearch:totalResults>{total}</opensearch:totalResults>
  <opensearch:startIndex>{start}</opensearch:startIndex>
  <opensearch:itemsPerPage>{size}</opensearch:itemsPerPage>
{entries}
</feed>
"""
ENTRY = """  <entry>
    <id>http://arxiv.org/abs/{number}v{version}</id>
    <updated>{updated:%Y-%m-%dT%H:%M:%SZ}</updated>
    <published>{published}</published>
    <title>{title}</title>
    <summary>  {abstract}
</summary>
{authors}
    <arxiv:comment>4 pages</arxiv:comment>
    <link href="http://arxiv.org/abs/{number}v{version}" rel="alternate" type="text/html"/>
    <link title="pdf" href="http://arxiv.org/pdf/{number}v{version}" rel="related" type="application/pdf"/>
    <arxiv:primary_category term="{primary}" scheme="http://arxiv.org/schemas/atom"/>
{categories}
  </entry>"""
ERROR = """  <entry>
    <id>http://arxiv.org/api/errors#malformed_query</id>
    <title>Error</title>
    <summary>malformed query</summary>
    <updated>2024-01-01T00:00:00-05:00</updated>
  </entry>"""


class Atom(Service):
    """The API; its own faults are ``empty``, ``nothing``, ``repeat``, ``again``, ``grow``, ``shrink`` and ``error``.

    Attributes
    ----------
    total
        The count that it states; None for the real one.
    """

    total = None

    def answer(self, query: dict, fault: str) -> bytes:
        search, start, size = query.get("search_query", ""), int(query["start"]), int(query["max_results"])
        if fault == "error":
            return FEED.format(query=escape(search), total=1, start=0, size=1, entries=ERROR).encode()
        if fault == "grow":
            self.papers.append(Paper(f"9999.{len(self.papers):05d}", self.papers[-1].submitted))
        if fault == "shrink":
            self.papers.pop()
        dates = re.search(r"submittedDate:\[(\d{12}) TO (\d{12})\]", search)
        first, last = dates.groups() if dates else ("0", "9")
        wanted = re.findall(r"cat:([\w.*-]+)", search)
        found = [p for p in self.papers if first <= f"{p.submitted:%Y%m%d%H%M}" <= last]
        found = [p for p in found if not wanted or any(fnmatch(c, w) for w in wanted for c in p.categories.split())]
        if numbers := query.get("id_list"):
            found = [p for p in found if p.number in numbers.split(",")]
        for word in re.findall(r"\bti:(\w+)", search):
            found = [p for p in found if word.lower() in p.title.lower()]
        found.sort(key=lambda p: p.submitted)
        page = found[start : start + size]
        if fault == "repeat":
            page = found[max(0, start - size) : start] or found[:1] * size
        if fault in ("empty", "nothing"):
            page = []
        if fault == "again":
            page = found[:size]
        total = self.total if self.total is not None else 0 if fault == "nothing" else len(found)
        entries = "\n".join(map(entry, page))
        return FEED.format(query=escape(search), total=total, start=start, size=size, entries=entries).encode()


def entry(paper: Paper) -> str:
    """A paper as an entry of the feed."""
    return ENTRY.format(
        number=paper.number,
        version=paper.versions,
        updated=paper.dates[-1],
        published=f"{paper.submitted:%Y-%m-%dT%H:%M:%SZ}" if paper.shown is None else paper.shown,
        title=escape(paper.title),
        abstract=escape(paper.abstract),
        authors="\n".join(f"    <author>\n      <name>{name}</name>\n    </author>" for name in paper.authors),
        primary=paper.categories.split()[0],
        categories="\n".join(f'    <category term="{c}" scheme="x"/>' for c in paper.categories.split()),
    )
