"""Tables for notebooks and the book, as HTML in which every value is text."""

from IPython.display import HTML

from titlesmith.markup import Markup, link_papers, render

SHOWN = {"prefix": lambda value: "(none)" if value == "" else value, "id": link_papers}  # columns by key


def html(rows: list[dict], columns: dict[str, str] | None = None, file: str = "", empty: str = "None.") -> Markup:
    """An HTML table in one line, without columns in which every value is missing, empty or a count of zero.

    ``rows`` have the same keys; ``columns`` are those to show, with their headings. ``file`` names a CSV file: the book
    lets readers sort the table and download it (``book/_static/tables.js``). ``empty`` is shown if there are no rows.
    """
    columns = columns or {key: key for key in (rows[0] if rows else ())}
    shown = [key for key in columns if any(_has_content(row.get(key)) for row in rows)]
    cells = [[SHOWN[key](row.get(key)) if key in SHOWN else row.get(key) for key in shown] for row in rows]
    return render("table.html.j2", headings=[columns[key] for key in shown], rows=cells, file=file, empty=empty)


def table(rows: list[dict], columns: dict[str, str] | None = None, file: str = "", empty: str = "None.") -> HTML:
    """The table of `html` as the last line of a notebook's cell."""
    return HTML(str(html(rows, columns, file, empty)))


def _has_content(value: object) -> bool:
    return value not in (None, "", []) and not (type(value) is int and value == 0)
