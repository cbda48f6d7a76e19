"""Markup: values of runs as plain text in MyST Markdown and in HTML.

Pages are Jinja2 templates in ``book/templates/``, which escape every value: templates named ``*.md.j2`` for MyST,
templates named ``*.html.j2`` for HTML. Only `Markup` objects, which are escaped already, are inserted unchanged.
"""

import json
import re
from datetime import date

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from titlesmith.runs import MADE_UP

ARXIV_ID = re.compile(r"(?<![\w./-])(\d{4}\.\d{4,5}(?:v\d+)?|[a-z-]+(?:\.[A-Z]{2})?/\d{7}(?:v\d+)?)(?![\w/-]|\.\d)")
CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffe\uffff]")  # characters that make an XML file, such as the feed, invalid
PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def text(value: object) -> str:
    """A value as one line of text, with replacements for control characters and halves of surrogate pairs."""
    return CONTROL.sub("\ufffd", " ".join(str(value).encode("utf-8", "replace").decode().split()))


def myst(value: object) -> Markup:
    """A value as MyST Markdown that shows it literally: every ASCII punctuation character is escaped."""
    return Markup(PUNCTUATION.sub(r"\\\1", text(value)))


def option(value: object) -> Markup:
    """A value as the quoted value of a MyST directive's option."""
    return Markup(json.dumps(text(value), ensure_ascii=False))


def link_papers(value: object) -> Markup:
    """A value as HTML text, in which the identifiers of arXiv are links to its papers."""
    return Markup(ARXIV_ID.sub(r'<a href="https://arxiv.org/abs/\1">\1</a>', str(escape(text(value)))))


def number(value: float | None) -> str:
    """A measurement with two decimal places below 1,000; a dash for None."""
    return "-" if value is None else f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share as a percentage; a dash for None."""
    return "-" if value is None else f"{value:.0%}"


def duration(seconds: float | None) -> str:
    """Seconds in a suitable unit; a dash for None."""
    if seconds is None:
        return "-"
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def day(moment: str) -> str:
    """The day of an ISO 8601 time."""
    return date.fromisoformat(moment[:10]).strftime("%-d %B %Y")


@pass_context
def _escape(context: Context, value: object) -> object:
    """Prepares a template's value: one line of text, escaped for MyST here, or for HTML by Jinja2 afterwards."""
    if hasattr(value, "__html__"):
        return value
    return myst(value) if context.name.endswith(".md.j2") else text(value)


ENVIRONMENT = Environment(
    loader=PackageLoader("titlesmith", "book/templates"),
    autoescape=True,
    finalize=_escape,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {each.__name__: each for each in (option, link_papers, number, percent, duration, day)}
ENVIRONMENT.filters["count"] = "{:,}".format


def render(template: str, **values: object) -> Markup:
    """Renders a template (KeyError if a value is missing). HTML becomes one line: an empty one would end its block."""
    try:
        page = ENVIRONMENT.get_template(template).render(values)
    except UndefinedError as error:
        raise KeyError(str(error)) from None
    if template.endswith(".html.j2"):
        page = " ".join(filter(None, map(str.strip, page.split("\n"))))
    return Markup(page)


ENVIRONMENT.globals |= {"render": render, "MADE_UP": MADE_UP}
