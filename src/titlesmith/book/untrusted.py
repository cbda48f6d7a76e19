"""Untrusted input: run values, records and executed notebooks, made inert before they reach a page.

Runs come from other people too: a published book keeps their records, and a run directory can be copied. So their text
never reaches MyST as markup, and of their notebooks only plain text, sanitized HTML and PNG images are shown.
"""

import base64
import json
from binascii import Error as Base64Error

import nh3
from markdown_it import MarkdownIt

from titlesmith.markup import myst
from titlesmith.runs import notebook

TAGS = frozenset({"hide-input", "remove-cell", "parameters", "injected-parameters"})
STYLES = frozenset({
    "text-align", "vertical-align", "padding", "margin", "white-space", "overflow-x", "color", "background-color",
    "font-size", "font-weight", "border",
})  # fmt: skip
ELEMENTS = frozenset({
    "a", "b", "blockquote", "br", "caption", "code", "dd", "div", "dl", "dt", "em", "h2", "h3", "h4", "h5", "h6", "hr",
    "i", "li", "ol", "p", "pre", "span", "strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr",
    "ul",
})  # fmt: skip
ATTRIBUTES = {
    "*": {"class", "style", "title", "role", "tabindex"},
    "a": {"href"},
    "th": {"scope", "colspan", "rowspan"},
    "td": {"colspan", "rowspan"},
}
WIDGET = "application/vnd.jupyter.widget-view+json"
PNG = b"\x89PNG\r\n\x1a\n"


def sanitize(html: str) -> str:
    """HTML without scripts, event handlers, frames, forms, images, and addresses other than links."""
    return nh3.clean(
        html,
        tags=set(ELEMENTS),
        attributes={name: set(values) for name, values in ATTRIBUTES.items()},
        generic_attribute_prefixes={"data-", "aria-"},
        filter_style_properties=set(STYLES),
        url_schemes={"http", "https"},
    )


def make_inert(book: dict, stage: str) -> dict:
    """A copy of an executed notebook that runs and reads nothing when the book is built or opened.

    Markdown and cell settings are kept where the project's own notebook has the same cell; other Markdown is shown
    without directives, roles, images and HTML. Outputs are reduced to text, sanitized HTML and PNG images.

    Parameters
    ----------
    book
        The executed notebook, as JSON.
    stage
        Its stage, which says what the project's own notebook is.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        It is not a notebook.
    """
    own = json.loads(notebook(stage).read_text("utf-8"))["cells"]
    trusted = {(cell["cell_type"], _join_source(cell)): cell["metadata"] for cell in own}
    cells = []
    for number, cell in enumerate(book["cells"]):
        kind, source, identity = cell["cell_type"], _join_source(cell), f"cell-{number}"
        settings = trusted.get((kind, source))
        if kind == "markdown":
            shown = _escape_markdown(source) if settings is None else source
            cells.append({"cell_type": "markdown", "id": identity, "metadata": {}, "source": shown})
        elif kind == "code":
            if settings is None:
                tags = [tag for tag in cell.get("metadata", {}).get("tags", []) if tag in TAGS]
                settings = {"tags": tags}
            count = cell.get("execution_count")
            cells.append({
                "cell_type": "code",
                "id": identity,
                "metadata": json.loads(json.dumps(settings)),
                "source": source,
                "execution_count": count if isinstance(count, int) else None,
                "outputs": [made for output in cell.get("outputs", []) if (made := _make_output_inert(output))],
            })  # fmt: skip
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "language_info": language}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def _join_source(cell: dict) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(map(str, source))


def _escape_markdown(source: str) -> str:
    """Markdown of others: its first title as MyST, so that the page has one, the rest as one line of sanitized HTML."""
    first, _, rest = source.partition("\n")
    title = f"# {myst(first[2:])}\n\n" if first.startswith("# ") else ""
    html = MarkdownIt("commonmark", {"html": False}).disable("image").render(rest if title else source)
    # Entities in place of line ends and braces: an HTML block of MyST would end at an empty line
    html = sanitize(html).replace("\n", "&#10;").replace("{", "&#123;").replace("}", "&#125;")
    return f"{title}<div>{html}</div>"


def _make_output_inert(output: dict) -> dict | None:
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": _join(output.get("text", ""))}
    if kind == "error":
        lines = [str(line) for line in output.get("traceback", [])]
        names = {key: str(output.get(key, "")) for key in ("ename", "evalue")}
        return {"output_type": "error", "traceback": lines} | names
    if kind not in ("display_data", "execute_result"):
        return None
    given, data = output.get("data", {}), {}
    if "text/html" in given:
        data["text/html"] = sanitize(_join(given["text/html"]))
    if "image/png" in given and _is_png(image := _join(given["image/png"])):
        data["image/png"] = image
    if "text/plain" in given and WIDGET not in given:  # of a bar or a box that only a kernel shows
        data["text/plain"] = _join(given["text/plain"])
    return {"output_type": "display_data", "metadata": {}, "data": data} if data else None


def _join(value: object) -> str:
    return value if isinstance(value, str) else "".join(map(str, value))


def _is_png(encoded: str) -> bool:
    try:
        return base64.b64decode("".join(encoded.split()), validate=True).startswith(PNG)
    except (Base64Error, ValueError):
        return False
