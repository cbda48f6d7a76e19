"""Tables for notebooks and the book, as HTML in which every value is text."""

from datetime import date

from IPython.display import HTML

from titlesmith.markup import Markup, link_papers, render

SHOWN = {"prefix": lambda value: "(none)" if value == "" else value, "id": link_papers}  # columns by key


def html(rows: list[dict], columns: dict[str, str] | None = None, file: str = "", empty: str = "None.") -> Markup:
    """An HTML table in one line, without columns in which every value is missing, empty or a count of zero.

    Parameters
    ----------
    rows
        Dictionaries with the same keys. Floats are shown with three decimal places, lists as their items.
    columns
        The keys to show, and the heading of each. Default: all keys.
    empty
        What is shown if there are no rows.
    file
        Name of a CSV file: the book lets readers sort the table and download it (``book/_static/tables.js``).
    """
    columns = columns or {key: key for key in (rows[0] if rows else ())}
    shown = [key for key in columns if any(_has_content(row.get(key)) for row in rows)]
    cells = [[_cell(SHOWN.get(key, lambda value: value)(row.get(key))) for key in shown] for row in rows]
    return render("table.html.j2", headings=[columns[key] for key in shown], rows=cells, file=file, empty=empty)


def table(rows: list[dict], columns: dict[str, str] | None = None, file: str = "", empty: str = "None.") -> HTML:
    """The table of `html` as the last line of a notebook's cell."""
    return HTML(str(html(rows, columns, file, empty)))


def _has_content(value: object) -> bool:
    return value is not None and value != "" and value != [] and not (type(value) is int and value == 0)


def _cell(value: object) -> dict:
    """What the template shows of a value: its ``text``, the ``number`` to sort by, and whether it may ``wrap``."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif is_number:
        text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
    else:
        text = "; ".join(map(str, value)) if isinstance(value, list) else "" if value is None else value
    return {"text": text, "number": value if is_number else None, "wrap": not isinstance(value, date)}
