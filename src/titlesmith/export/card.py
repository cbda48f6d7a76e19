"""The model card of an export: Markdown for the Hugging Face hub, from the template ``card.md.j2``.

Values of a run may come from other people. The template shows them as plain text: see `escape`.
"""

import re

from huggingface_hub import ModelCardData
from jinja2 import PackageLoader
from markupsafe import Markup
from markupsafe import escape as escape_html

from titlesmith.corpus import Corpus
from titlesmith.corpus.template import pieces
from titlesmith.corpus.tokenizer import END
from titlesmith.evaluate import report
from titlesmith.markup import ENVIRONMENT
from titlesmith.models import gguf, hub
from titlesmith.models.catalogue import PUBLISHED, describe
from titlesmith.runs import EXECUTION_ONLY, Run, root, versions

OF_ARXIV = ("arxiv", "oai", "rss", "snapshot", "archive")  # sources of papers in English
LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "quantize")
EXAMPLES = {  # of fields of a prompt
    "abstract": "We study how people hear speech in noise. Listeners understand more when the noise moves.",
    "title": "How people hear speech in noise",
    "year": "2024",
}
MARKDOWN = re.compile(r"([\\`*_|\[\]$~#@]|:(?=//)|(?<=www)\.)")


def escape(value: object) -> Markup:
    """A value as one line of Markdown in which nothing is markup, HTML or a link; templates call it on every value."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or "none"
    html = str(escape_html(" ".join(str(value).split()))).replace("&#39;", "'").replace("&#34;", '"')
    return Markup(MARKDOWN.sub(r"\\\1", html))


TEMPLATES = ENVIRONMENT.overlay(loader=PackageLoader("titlesmith.export"), finalize=escape, keep_trailing_newline=True)


def card(run: Run, corpus: Corpus, settings: dict, precision: str) -> str:
    """The card of a trained run's model, in Markdown, without paths of this machine.

    ``settings`` are the parameters of notebook 04 that generation_config.json has; ``precision`` is the type of the
    weights, such as ``float32``.
    """
    harvest, training = run.record("harvest"), run.record("finetune")
    model, adapted = training["settings"]["model"], bool(training["settings"].get("lora_rank"))
    of_arxiv = harvest["settings"]["source"] in OF_ARXIV
    base, licence = base_model(model), "cc0-1.0" if model == "base" else PUBLISHED.get(model, ("", None))[1]
    front_matter = ModelCardData(
        base_model=base,
        language="en" if of_arxiv or run.made_up else None,
        library_name="transformers",
        license=licence,
        model_name=run.name,
        pipeline_tag="text-generation",
        tags=["titlesmith", *["arxiv"] * of_arxiv, *["lora"] * adapted],
    ).to_yaml()
    fields, prompt = _example(corpus, settings)
    return TEMPLATES.get_template("card.md.j2").render(
        run=run,
        corpus=corpus,
        settings=settings,
        precision=precision,
        harvest=harvest,
        training=training,
        model=model,
        adapted=adapted,
        base=base,
        licence=licence,
        front_matter=Markup(front_matter),
        fields=Markup(fields),
        prompt=Markup(prompt),
        unused={"model", "run_name", *EXECUTION_ONLY, *(() if adapted else LORA)},
        versions=versions(),
        report=report,
        describe=describe,
        end=END,
        origin=gguf.ORIGIN if model == gguf.SMOLLM2 else "",
    )


def base_model(model: str) -> str | None:
    """A model's name on the hub; None for ``scratch`` models and for folders."""
    if model in PUBLISHED:
        return PUBLISHED[model][0]
    source, _ = hub.split_name(model)
    is_name = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(?<!\.gguf)", source, re.ASCII) and source != "scratch"
    return source if hub.is_hub(model) and is_name and not (root() / source).is_dir() else None


def _example(corpus: Corpus, settings: dict) -> tuple[str, str]:
    """Python expressions of example fields and of a prompt made of them, or of a beginning if there is no prompt."""
    if not corpus.has_prompt:
        return "", repr(next(filter(None, map(corpus.clean, settings["prefixes"])), ""))
    frequent = next((row["category"] for row in corpus.categories if row["category"]), "cs.CL")
    examples = EXAMPLES | {"category": frequent, "primary_category": frequent}
    fields = {name: corpus.clean(examples.get(name, f"A {name}")) for name in corpus.template.prompt_fields}
    parts = (repr(text) if name is None else f"fields[{name!r}]" for text, name in pieces(corpus.template.prompt))
    return repr(fields), " + ".join(parts)
