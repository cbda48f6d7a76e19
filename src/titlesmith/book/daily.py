"""Pages of a run's new papers: the newest day, and a page for each earlier one."""

from datetime import date
from itertools import groupby
from operator import itemgetter

from titlesmith.book.report import Report
from titlesmith.markup import Markup, render

PAGE = "daily.md"


def render_days(report: Report) -> dict[str, Markup]:
    """The pages by file name, `PAGE` first; none for a run without new papers (DAMAGE: its rows are damaged)."""
    rows = sorted((row for row in report.daily if "titles" in row), key=itemgetter("day", "id"))
    papers = {date.fromisoformat(day): list(group) for day, group in groupby(rows, key=itemgetter("day"))}
    newest = sorted(papers, reverse=True)
    days = [(f"{day:%-d %B %Y}", f"daily-{day}.md" if day < newest[0] else PAGE) for day in newest]
    return {
        name: render(
            "daily.md.j2",
            report=report,
            categories=", ".join(report.record("harvest")["settings"]["categories"]),
            day=written,
            days=days,
            count=len(papers[day]),
            papers=render("daily.html.j2", papers=papers[day]),
        )
        for day, (written, name) in zip(newest, days, strict=True)
    }
