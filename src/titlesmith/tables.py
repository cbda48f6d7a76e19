"""Tables for notebooks: plain HTML in which a paper's title is text and nothing else."""

from datetime import date
from html import escape

from IPython.display import HTML

STYLE = "text-align: left; vertical-align: top; padding: 0.2em 0.7em 0.2em 0"


def html(rows: list[dict], columns: dict[str, str] | None = None, file: str = "") -> str:
    """An HTML table.

    Parameters
    ----------
    rows
        Dictionaries with the same keys; floats are shown to three digits behind the point, lists by items.
    columns
        Which keys to show, and the heading of each; all keys by their names where it is left out.
    file
        Where the book's readers may sort the table and download it as CSV (``book/_static/tables.js``), the name of
        that file.

    Returns
    -------
    str
        One line of HTML. All text is escaped, and the classes keep MathJax from typesetting dollar signs. A wide
        table scrolls, by keyboard too.
    """
    if not rows:
        return "<p>None.</p>"
    columns = columns or {key: key for key in rows[0]}
    head = "".join(f'<th scope="col" style="{STYLE}">{escape(heading)}</th>' for heading in columns.values())
    body = "".join("<tr>" + "".join(map(_cell, (row.get(key) for key in columns))) + "</tr>" for row in rows)
    more = f' class="sortable" data-file="{escape(file)}"' if file else ""
    return (
        '<div class="tex2jax_ignore mathjax_ignore" style="overflow-x: auto" tabindex="0">'
        f'<table{more} style="margin: 0 0 1em">'
        + (f"<thead><tr>{head}</tr></thead>" if any(columns.values()) else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


def table(rows: list[dict], columns: dict[str, str] | None = None) -> HTML:
    """The table of `html`, for the last line of a cell."""
    return HTML(html(rows, columns))


def sortable(rows: list[dict], columns: dict[str, str], file: str) -> HTML:
    """A table that can be sorted in the book and downloaded as ``file``; elsewhere a table like the others."""
    return HTML(html(rows, columns, file))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, (int, float)):
        shown = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
        return f'<td data-value="{value}" style="{STYLE}; text-align: right">{shown}</td>'
    style = f"{STYLE}; white-space: nowrap" if isinstance(value, date) else STYLE
    text = "; ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return f'<td style="{style}">{escape(" ".join(text.split()))}</td>'
