"""arXiv's OAI-PMH interface, as oaipmh.arxiv.org/oai gives it: sets, days of change, tokens, deleted records."""

from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote, urlencode
from xml.sax.saxutils import escape

from servers.base import Paper, Service

DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.openarchives.org/OAI/2.0/ http://www.openarchives.org/OAI/2.0/OAI-PMH.xsd">
  <responseDate>{now:%Y-%m-%dT%H:%M:%SZ}</responseDate>
  <request verb="{verb}">http://127.0.0.1/oai</request>
{content}
</OAI-PMH>"""
RECORD = """<record>
  <header>
{identifier}
    <datestamp>{stamp}</datestamp>
{sets}
  </header>
  <metadata>
    <arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://arxiv.org/OAI/arXivRaw/ http://arxiv.org/OAI/arXivRaw.xsd">
      <id>{number}</id>
      <submitter>Ada Byron</submitter>
{versions}
      <title>{title}</title>
      <authors>{authors}</authors>
      <categories>{categories}</categories>
      <comments>4 pages</comments>
      <license>http://arxiv.org/licenses/nonexclusive-distrib/1.0/</license>
      <abstract>  {abstract}
</abstract>
    </arXivRaw>
  </metadata>
</record>"""
DELETED = """<record>
  <header status="deleted">
    <identifier>oai:arXiv.org:{number}</identifier>
    <datestamp>{stamp}</datestamp>
  </header>
</record>"""
IDENTIFY = """<Identify>
  <repositoryName>arXiv</repositoryName><baseURL>https://oaipmh.arxiv.org/oai</baseURL>
  <protocolVersion>2.0</protocolVersion><adminEmail>help@arxiv.org</adminEmail>
  <earliestDatestamp>2005-09-16</earliestDatestamp><deletedRecord>persistent</deletedRecord>
  <granularity>YYYY-MM-DD</granularity>
</Identify>"""


class Oai(Service):
    """The interface; its own faults are ``empty`` (a page), ``expire`` (a token), ``nothing`` (no records), ``mangle``,
    ``repeat``, ``stay`` (the same token and page), ``revise`` and ``delete`` (the first paper, from this request on).

    Attributes
    ----------
    size
        Records a page.
    """

    size = 10

    def answer(self, query: dict, fault: str) -> bytes:
        verb = query["verb"]
        if verb == "Identify":
            return DOCUMENT.format(verb=verb, now=datetime.now(UTC), content=IDENTIFY).encode()
        return DOCUMENT.format(verb=verb, now=datetime.now(UTC), content=self.list(query, fault)).encode()

    def list(self, query: dict, fault: str) -> str:
        """The content of an answer to ListRecords."""
        if fault == "revise":  # a paper listed already changes, and so moves to the end of the list
            self.papers[0].stamp, self.papers[0].versions = "2024-05-01", 2
        if fault == "delete":
            self.papers[0].deleted = True
        skip, sent_token = 0, query.get("resumptionToken")
        if token := query.get("resumptionToken"):
            if fault == "expire":
                return '<error code="badResumptionToken">The token has expired</error>'
            query = dict(parse_qsl(unquote(token)))
            skip = int(query.pop("skip"))
        if query["metadataPrefix"] != "arXivRaw":
            return '<error code="cannotDisseminateFormat">Did not recognize requested format</error>'
        found = [p for p in self.papers if query.get("from", "") <= p.stamp]
        if wanted := query.get("set"):
            if wanted not in ("eess:eess:AS", "cs:cs:SD", "cs:cs"):
                return '<error code="badArgument">Set does not exist</error>'
            found = [p for p in found if any(f"{spec(c)}:".startswith(f"{wanted}:") for c in p.categories.split())]
        found.sort(key=lambda p: (p.stamp, p.number))
        if not found[skip:] or fault == "nothing":
            return '<error code="noRecordsMatch">no records</error>'
        page = found[skip : skip + self.size]
        if fault == "repeat":
            page = found[max(0, skip - self.size) : skip] + page
        content = "" if fault == "empty" else "\n".join(map(record, page))
        if fault == "mangle":  # markup that hides the records after it
            content = content.replace("</title>", "</authors></header>", 1)
        if found[skip + self.size :]:
            day = found[skip + self.size].stamp
            if day != page[0].stamp:  # as arXiv: on from the day that the page ends with
                token = query | {"from": day, "skip": sum(p.stamp == day for p in page)}
            else:
                token = query | {"skip": skip + self.size}
            following = sent_token if fault == "stay" and sent_token else quote(urlencode(token))
            content += f"<resumptionToken expires='2024-06-02T00:00:00Z'>{escape(following)}</resumptionToken>"
        elif token:
            content += "<resumptionToken/>"
        return f"<ListRecords>{content}</ListRecords>"


def spec(category: str) -> str:
    """The set of a category of these tests."""
    return f"{category.partition('.')[0]}:{category.replace('.', ':')}"


def record(paper: Paper) -> str:
    """A paper as a record of the list."""
    if paper.deleted:
        return DELETED.format(number=paper.number, stamp=paper.stamp)
    versions = "\n".join(
        f'<version version="v{n + 1}"><date>{day:%a, %d %b %Y %H:%M:%S GMT}</date><size>9kb</size></version>'
        for n, day in enumerate(paper.dates)
    )
    return RECORD.format(
        identifier=f"    <identifier>oai:arXiv.org:{paper.number}</identifier>" if paper.number else "",
        number=paper.number,
        stamp=paper.stamp if paper.shown is None else paper.shown,
        sets="\n".join(f"<setSpec>{spec(c)}</setSpec>" for c in paper.categories.split()),
        versions=versions,
        title=escape(paper.title),
        authors=escape(" and ".join(paper.authors)),
        categories=paper.categories,
        abstract=escape(paper.abstract),
    )
