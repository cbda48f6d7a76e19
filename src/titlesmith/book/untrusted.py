"""Untrusted input: run values, records and executed notebooks, made inert before they reach a page.

Runs come from other people too: a published book keeps their records, and a run directory can be copied. So their text
never reaches MyST as markup, and of their notebooks only plain text, sanitized HTML and PNG images are shown.
"""

import base64
from copy import deepcopy
from functools import partial

import nbformat
import nh3
from markdown_it import MarkdownIt
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from titlesmith.markup import myst
from titlesmith.runs import notebook

TAGS = {"hide-input", "remove-cell", "parameters", "injected-parameters"}
STYLES = {
    "text-align", "vertical-align", "padding", "margin", "white-space", "overflow-x", "color", "background-color",
    "font-size", "font-weight", "border",
}  # fmt: skip
# HTML without scripts, event handlers, frames, forms, images, and addresses other than links
sanitize = partial(
    nh3.clean,
    tags=nh3.ALLOWED_TAGS - {"area", "img", "map"},
    attributes=nh3.ALLOWED_ATTRIBUTES | {"*": {"class", "style", "title", "role", "tabindex"}},
    generic_attribute_prefixes={"data-", "aria-"},
    filter_style_properties=STYLES,
    url_schemes={"http", "https"},
)
WIDGET = "application/vnd.jupyter.widget-view+json"
PNG = b"\x89PNG\r\n\x1a\n"
KERNEL = {"name": "python3", "language": "python", "display_name": "Python 3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}


def make_inert(book: NotebookNode, stage: str) -> NotebookNode:
    """A copy of a stage's executed notebook that runs and reads nothing when the book is built or opened.

    Markdown and cell settings are kept where the project's own notebook has the same cell; other Markdown is shown
    without directives, roles, images and HTML. Outputs are reduced to text, sanitized HTML and PNG images.
    """
    own = nbformat.read(notebook(stage), as_version=4)
    trusted = {(cell.cell_type, cell.source): cell.metadata for cell in own.cells}
    inert = new_notebook(metadata={"kernelspec": KERNEL, "language_info": LANGUAGE})
    for number, cell in enumerate(book.cells):
        identity, metadata = f"cell-{number}", trusted.get((cell.cell_type, cell.source))
        if cell.cell_type == "markdown":
            source = _escape_markdown(cell.source) if metadata is None else cell.source
            inert.cells.append(new_markdown_cell(source, id=identity))
        elif cell.cell_type == "code":
            if metadata is None:
                metadata = {"tags": sorted(TAGS.intersection(cell.metadata.get("tags", [])))}
            made = new_code_cell(str(cell.source), id=identity, metadata=deepcopy(metadata))
            if isinstance(cell.execution_count, int):
                made.execution_count = cell.execution_count
            made.outputs = list(filter(None, map(_make_output_inert, cell.outputs)))
            inert.cells.append(made)
    return inert


def _escape_markdown(source: str) -> str:
    """Markdown of others: its first title as MyST, so that the page has one, the rest as one line of sanitized HTML."""
    first, _, rest = source.partition("\n")
    title = f"# {myst(first[2:])}\n\n" if first.startswith("# ") else ""
    html = MarkdownIt("commonmark", {"html": False}).disable("image").render(rest if title else source)
    # Entities in place of line ends and braces: an HTML block of MyST would end at an empty line
    html = sanitize(html).replace("\n", "&#10;").replace("{", "&#123;").replace("}", "&#125;")
    return f"{title}<div>{html}</div>"


def _make_output_inert(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return new_output("stream", name=name, text=str(output.text))
    if output.output_type == "error":
        lines = [str(line) for line in output.traceback]
        return new_output("error", ename=str(output.ename), evalue=str(output.evalue), traceback=lines)
    given, data = output.get("data", {}), {}
    if "text/html" in given:
        data["text/html"] = sanitize(given["text/html"])
    if "image/png" in given and _is_png(given["image/png"]):
        data["image/png"] = given["image/png"]
    if "text/plain" in given and WIDGET not in given:  # of a bar or a box that only a kernel shows
        data["text/plain"] = str(given["text/plain"])
    return new_output("display_data", data) if data else None


def _is_png(encoded: str) -> bool:
    try:
        return base64.b64decode("".join(encoded.split()), validate=True).startswith(PNG)
    except ValueError:
        return False
