"""arXiv's feeds, as rss.arxiv.org/rss/CATEGORY+CATEGORY gives them."""

from xml.sax.saxutils import escape

from servers.base import Paper, Service

FEED = """<?xml version='1.0' encoding='UTF-8'?>
<rss xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns:dc="http://purl.org/dc/elements/1.1/" \
xmlns:atom="http://www.w3.org/2005/Atom" xmlns:content="http://purl.org/rss/1.0/modules/content/" version="2.0">
  <channel>
    <title>{names} updates on arXiv.org</title>
    <link>http://rss.arxiv.org/rss/{names}</link>
    <description>{names} updates on the arXiv.org e-print archive.</description>
    <docs>http://www.rssboard.org/rss-specification</docs>
    <language>en-us</language>
    <pubDate>Mon, 08 Jan 2024 00:00:00 -0500</pubDate>
    <skipDays><day>Saturday</day><day>Sunday</day></skipDays>
{items}
  </channel>
</rss>
"""
ITEM = """    <item>
      <title>{title}</title>
      <link>https://arxiv.org/abs/{number}</link>
      <description>arXiv:{number}v{version} Announce Type: {announced} \nAbstract: {abstract}</description>
      <guid isPermaLink="false">oai:arXiv.org:{number}v{version}</guid>
{categories}
      <pubDate>Mon, 08 Jan 2024 00:00:00 -0500</pubDate>
      <arxiv:announce_type>{announced}</arxiv:announce_type>
      <dc:rights>http://creativecommons.org/licenses/by/4.0/</dc:rights>
      <arxiv:DOI>10.1000/{number}</arxiv:DOI>
      <dc:creator>{authors}</dc:creator>
    </item>"""


class Rss(Service):
    """The feeds, whose papers are announced as their ``title`` begins; its own fault is ``empty`` (as on weekends)."""

    def answer(self, query: dict, fault: str) -> bytes:
        names = query["path"].rpartition("/")[2].split("+")
        found = [p for p in self.papers if set(names) & set(p.categories.split()) and fault != "empty"]
        return FEED.format(names=",".join(names), items="\n".join(map(item, found))).encode()


def item(paper: Paper) -> str:
    """A paper as an item of the feed."""
    return ITEM.format(
        number=paper.number,
        version=paper.versions,
        title=escape(paper.title),
        announced=paper.title.split()[0],
        abstract=escape(paper.abstract),
        categories="\n".join(f"      <category>{c}</category>" for c in paper.categories.split()),
        authors=", ".join(paper.authors),
    )
