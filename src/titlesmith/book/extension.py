"""A Sphinx extension for what the book needs and Jupyter Book does not set."""

from functools import cache

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.search.en import SearchEnglish


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.connect("config-inited", prepare, priority=900)
    app.add_config_value("titlesmith_static", [], "html")  # Sphinx copies changed styles and scripts only with a page
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def prepare(app: Sphinx, config: Config) -> None:
    """Makes a book of hundreds of runs quick to build: in parallel, and each word stemmed once."""
    # It numbers sections in the main process, which is safe, but does not declare it.
    app.extensions["sphinx_multitoc_numbering"].parallel_read_safe = True
    app.extensions["sphinx_multitoc_numbering"].parallel_write_safe = True
    # The pages of all runs have nearly the same words.
    SearchEnglish.stem = cache(SearchEnglish.stem)
