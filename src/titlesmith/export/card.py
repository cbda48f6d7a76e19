"""The model card of an export: Markdown for the Hugging Face hub, from the template ``card.md.j2``.

Values of a run may come from other people. The template shows them as plain text: see `escape`.
"""

import re
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as escape_html

from titlesmith.corpus import Corpus
from titlesmith.corpus.template import pieces
from titlesmith.corpus.tokenizer import END
from titlesmith.errors import RunError
from titlesmith.evaluate import report
from titlesmith.generate import GenerationSettings
from titlesmith.models import gguf, hub
from titlesmith.models.catalogue import PUBLISHED, describe
from titlesmith.runs import EXECUTION_ONLY, MADE_UP, Run, notebook, root, versions

SOURCES = {
    "sample": "titlesmith's sample grammar, which invented them",
    "arxiv": "arXiv's search",
    "oai": "arXiv's OAI-PMH service",
    "rss": "arXiv's announcements",
    "snapshot": "Kaggle's snapshot of the metadata of arXiv",
    "archive": Markup("the ArXiv Archive (https://doi.org/10.5281/zenodo.2533436)"),
    "csv": "a table",
    "alpaca": "instruction data in Alpaca's format",
}
OF_ARXIV = ("arxiv", "oai", "rss", "snapshot", "archive")
FILES = ("snapshot", "archive", "csv", "alpaca")
COUNTS = {"outside": "outside the filters", "repeated": "repeated", "beyond": "beyond the limit", "kept": "kept"}
LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "quantize")
CHANGED = ("repetition_penalty", "no_repeat_ngram")  # transformers counts the document's first token too
EXAMPLES = {
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


TEMPLATES = Environment(
    loader=PackageLoader("titlesmith.export"),
    autoescape=True,
    finalize=escape,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def card(run: Run, corpus: Corpus, settings: dict, precision: str) -> str:
    """The card of a trained run's model, in Markdown, without paths of this machine.

    ``settings`` are the parameters of notebook 04 that generation_config.json has; ``precision`` is the type of the
    weights, such as ``float32``.
    """
    training, model = run.record("finetune"), run.record("finetune")["settings"]["model"]
    evaluated = run.is_current("evaluate")
    stored, now = run.info.get("versions", {}), versions()
    categories = [row["category"] for row in corpus.categories if row["category"] not in (None, "other")]
    adapted = bool(training["settings"].get("lora_rank"))
    unused = {"model", "run_name", *EXECUTION_ONLY, *(() if adapted else LORA)}
    return TEMPLATES.get_template("card.md.j2").render(
        adapted=adapted,
        base=base_model(model),
        categories=categories[:3],
        changed=[key for key in CHANGED if settings[key] != getattr(GenerationSettings, key)],
        corpus=corpus,
        data=_data(run),
        described=describe(model) if model == "base" else "a model of a local folder",
        end=END,
        evaluation=_evaluation(run, corpus) if evaluated else None,
        front_matter=Markup(_front_matter(run)),
        kept=run.record("harvest").get("counts", {}).get("kept", 0),
        last_paper=next((row["last"] for row in corpus.counts if row["split"] == "train"), None),
        licence=_licence(model),
        made_up=MADE_UP if run.made_up else "",
        metrics=run.metrics if evaluated else {},
        order=run.record("corpus").get("settings", {}).get("order", "date"),
        origin=gguf.ORIGIN if model == gguf.SMOLLM2 else "",
        precision=precision,
        run=run,
        scratch={"scratch": "GPT-2", "scratch-base": "GPT-2", "hf:scratch": "LLaMA"}.get(model),
        settings=settings,
        snippet=Markup(snippet(corpus, settings)),
        training=training,
        training_settings=[
            {"setting": key, "value": value} for key, value in training["settings"].items() if key not in unused
        ],
        versions=[
            {"package": name, "trained with": stored.get(name, ""), "exported with": now.get(name, "")}
            for name in stored | now
        ],
        writes=" and ".join(corpus.template.completion_fields),
    )


def _front_matter(run: Run) -> str:
    """The metadata that the hub reads, in YAML between two lines of hyphens."""
    settings, source = run.record("finetune")["settings"], run.record("harvest").get("settings", {}).get("source")
    model = settings["model"]
    data = {
        "base_model": base_model(model),
        "language": "en" if source in OF_ARXIV or source == "sample" else None,
        "library_name": "transformers",
        "license": _licence(model),
        "model_name": run.name,
        "pipeline_tag": "text-generation",
        "tags": ["titlesmith", *["arxiv"] * (source in OF_ARXIV), *["lora"] * bool(settings.get("lora_rank"))],
    }
    known = {key: value for key, value in data.items() if value is not None}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n"


def base_model(model: str) -> str | None:
    """A model's name on the hub; None for ``scratch`` models and for folders."""
    if model in PUBLISHED:
        return PUBLISHED[model][0]
    source, _ = hub.split_name(model)
    is_name = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(?<!\.gguf)", source, re.ASCII) and source != "scratch"
    return source if hub.is_hub(model) and is_name and not (root() / source).is_dir() else None


def _licence(model: str) -> str | None:
    """The licence of a model of the catalogue, or the one that the card of a local model names."""
    if model in PUBLISHED:
        return PUBLISHED[model][1]
    if model == "base":
        return "cc0-1.0"
    path = hub.model_path(model) / "README.md"
    if not base_model(model) or not path.is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        licence = (metadata_load(path) or {}).get("license")
    except Exception:  # the card's front matter is not valid YAML
        return None
    return licence if isinstance(licence, str) else None


def _data(run: Run) -> list[dict]:
    """The harvest as rows of a table."""
    record = run.record("harvest")
    settings, counts = record.get("settings", {}), record.get("counts", {})
    facts = {"source": SOURCES.get(settings.get("source"), "unknown")}
    if settings.get("path") and settings.get("source") in FILES:
        facts["file"] = Path(settings["path"]).name
    facts |= {key: settings[key] for key in ("categories", "query", "since", "until") if settings.get(key)}
    facts["harvested"] = (record.get("ended") or "unknown")[:10]
    facts["rows read"] = f"{counts.get('read', 0):,}"
    facts |= {why: f"{counts[key]:,}" for key, why in COUNTS.items() if counts.get(key)}
    if faults := sum(fault["rows"] for fault in record.get("faults", {}).values()):
        facts["rows that are not papers"] = f"{faults:,}"
    return [{"what": key, "value": value} for key, value in facts.items()]


def _evaluation(run: Run, corpus: Corpus) -> tuple[list[dict], list[dict]]:
    """The tables of perplexities and of measurements."""
    names = (*report.FAULTS, *report.STYLE, *(report.PROMPTED if corpus.has_prompt else ()))
    try:
        return report.perplexities(run.metrics, run.name), report.comparison(run.metrics, names)
    except KeyError as error:
        raise RunError(
            f"{run / 'metrics.json'} lacks {error}: it is damaged or from an older version. "
            f"Run {notebook('evaluate').name} again"
        ) from None


def snippet(corpus: Corpus, settings: dict) -> str:
    """A Python program, run in the exported folder, that lets the model write with transformers."""
    count = f", num_return_sequences={min(settings['count'], 5)}" if settings["beams"] == 1 else ""
    stop = f'.partition("{END}")[0]' if corpus.layout.markers[2] == END else ""
    shown, options = 'row["generated_text"]', ""
    if corpus.has_prompt:
        fields = {name: _example(name, corpus) for name in corpus.template.prompt_fields}
        filled = (repr(text) if name is None else f"fields[{name!r}]" for text, name in pieces(corpus.template.prompt))
        lines = [f"fields = {fields!r}", f"prompt = {' + '.join(filled)}"]
        options = ", return_full_text=False"
    else:
        prompt = next((corpus.clean(prefix) for prefix in settings["prefixes"] if corpus.clean(prefix)), "")
        lines = [f"prompt = {prompt!r}"]
        if not corpus.tokenizer.is_byte_level:
            options = ", return_tensors=True"
            shown = 'write.tokenizer.decode(row["generated_token_ids"], skip_special_tokens=True)'
    return "\n".join([
        "from transformers import pipeline, set_seed",
        "",
        'write = pipeline("text-generation", ".")  # this folder; elsewhere its path, or its name on the hub',
        "set_seed(1)",
        *lines,
        f"for row in write(prompt{options}{count}):",
        f"    print({shown}{stop})",
    ])  # fmt: skip


def _example(name: str, corpus: Corpus) -> str:
    """A value for a field of the prompt."""
    frequent = next((row["category"] for row in corpus.info.get("categories", []) if row["category"]), "cs.CL")
    return corpus.clean({"category": frequent, "primary_category": frequent}.get(name, EXAMPLES.get(name, f"A {name}")))
