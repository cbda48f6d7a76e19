"""A Sphinx extension for what the book needs and Jupyter Book does not set."""

import re
from functools import cache

from docutils import nodes
from jinja2.ext import Extension
from markupsafe import Markup
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.search.en import SearchEnglish

from titlesmith.markup import render


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.connect("config-inited", prepare, priority=900)
    app.connect("builder-inited", lambda app: app.builder.templates.environment.add_extension(Shrink))
    app.connect("html-page-context", describe_page, priority=900)
    app.add_config_value("titlesmith_address", "", "html")
    app.add_config_value("titlesmith_static", [], "html")  # Sphinx copies changed styles and scripts only with a page
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def prepare(app: Sphinx, config: Config) -> None:
    """Makes a book of hundreds of runs quick to build: in parallel, and each word stemmed once."""
    # It numbers sections in the main process, which is safe, but does not declare it.
    app.extensions["sphinx_multitoc_numbering"].parallel_read_safe = True
    app.extensions["sphinx_multitoc_numbering"].parallel_write_safe = True
    # The pages of all runs have nearly the same words.
    SearchEnglish.stem = cache(SearchEnglish.stem)


class Shrink(Extension):
    """Templates of the theme without 1.6 MB: the icons as a script, and fonts that few pages need."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Called by Jinja2."""
        return re.sub(r'<link rel="preload" as="font"[^>]*>|<script [^>]*/fontawesome/[^>]*></script>', "", source)


def describe_page(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Adds what feed readers and social networks read, and removes styles and scripts that the page does not need."""
    metatags = context.get("metatags", "")
    head = render(
        "head.html.j2",
        feed=context["pathto"]("feed.xml", 1),
        title=Markup(context.get("title", "")).striptags(),
        address=app.config.titlesmith_address,
        is_described='name="description"' in metatags,
    )
    context["metatags"] = metatags + str(head)
    context["default_mode"] = "auto"  # of light and dark; else the theme's script reports an error
    # No page has grids, toggles and kernels; MathJax has two megabytes
    unused = ["sphinx-design", "design-tabs", "togglebutton", "thebe", "THEBE"]
    kinds = {type(node) for node in doctree.findall()} if doctree else set()
    unused += ["mathjax"] * kinds.isdisjoint({nodes.math, nodes.math_block})
    unused += ["clipboard", "copybutton"] * (nodes.literal_block not in kinds)
    unused += ["mystnb"] * (context.get("page_source_suffix") != ".ipynb")
    for kind in ("css_files", "script_files"):
        named = [(file, f"{file.filename} {file.attributes}") for file in context[kind]]
        context[kind] = [file for file, words in named if not any(name in words for name in unused)]
