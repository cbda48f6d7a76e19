"""A box in notebook 04: type a beginning, press a button, read the model's texts."""

import functools
import itertools
from collections.abc import Callable

import ipywidgets as widgets

from titlesmith.corpus import Corpus
from titlesmith.errors import TitlesmithError
from titlesmith.generate import Backend, GenerationSettings, TextGenerator, requests, texts
from titlesmith.markup import render
from titlesmith.tables import html

MAX_TEXTS, MAX_PAPERS = 100, 3  # a click should take seconds


def create(open: Callable[[], Backend], corpus: Corpus, parameters: dict) -> widgets.VBox:
    """The box; ``open`` opens the model at the first click, ``parameters`` are those of notebook 04."""
    style = {"description_width": "initial"}  # as wide as its words
    beginning = widgets.Text(description="Beginning", placeholder="Neural", style=style)
    temperature = widgets.BoundedFloatText(
        parameters["temperature"], min=0.05, max=10, step=0.1, description="Temperature", style=style
    )
    count = min(parameters["count"], MAX_TEXTS)
    count = widgets.BoundedIntText(count, min=1, max=MAX_TEXTS, description="Texts", style=style)
    button, shown = widgets.Button(description="Write texts"), widgets.HTML()
    open_once, seeds = functools.cache(open), itertools.count(parameters["seed"])

    def write(_: widgets.Button) -> None:
        button.disabled, shown.value = True, "Writing ..."
        try:
            chosen = {"prefixes": [beginning.value], "temperature": temperature.value, "count": count.value}
            chosen |= {"seed": next(seeds) % 2**32, "held_out": min(parameters["held_out"], MAX_PAPERS)}
            requested = requests(corpus, parameters | chosen)
            settings = GenerationSettings.of(parameters | chosen)
            rows = list(TextGenerator(open_once(), corpus, requested, settings))
            shown.value = str(html(rows, texts.columns(rows)))
        except TitlesmithError as error:
            shown.value = str(render("message.html.j2", text=str(error)))
        finally:
            button.disabled = False

    button.on_click(write)
    return widgets.VBox([widgets.HBox([beginning, temperature, count, button]), shown])
