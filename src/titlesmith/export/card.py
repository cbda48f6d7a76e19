"""The model card of an export: what people must know before they use a model, in the form of Hugging Face's hub."""

import re
from html import escape
from pathlib import Path

from titlesmith.corpus import Corpus
from titlesmith.errors import RunError
from titlesmith.evaluate import report
from titlesmith.export.usage import usage
from titlesmith.generate import GenerationSettings
from titlesmith.models import GPT2, hub
from titlesmith.runs import EXECUTION_ONLY, MADE_UP, Run, notebook, root, versions

HUB = dict(zip(GPT2, (f"openai-community/gpt2{size}" for size in ("", "-medium", "-large", "-xl")), strict=True))
SOURCES = {
    "sample": "titlesmith's sample grammar, which invented them",
    "arxiv": "arXiv's search",
    "oai": "arXiv's OAI-PMH service",
    "rss": "arXiv's announcements",
    "snapshot": "Kaggle's snapshot of the metadata of arXiv",
    "archive": "the ArXiv Archive (https://doi.org/10.5281/zenodo.2533436)",
    "csv": "a table",
    "alpaca": "instruction data in Alpaca's form",
}
COUNTS = {"outside": "outside the filters", "repeated": "repeated", "beyond": "beyond the limit", "kept": "kept"}
LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "quantize")
CHANGING = {  # settings of sampling that transformers understands a little differently
    "repetition_penalty": "counts the end of text that opens a document as one that was there before",
    "no_repeat_ngram": "counts the end of text that opens a document",
}


def card(run: Run, corpus: Corpus, settings: dict, precision: str) -> str:
    """The card of a run's model, in Markdown.

    No path of this machine stands in it, and no figure that is not finite.

    Parameters
    ----------
    run
        Whose training is done.
    corpus
        What it was trained on.
    settings
        The parameters of notebook 04 that generation_config.json has.
    precision
        The type of the weights, such as ``float32``.
    """
    parts = [
        f"# {run.name}",
        *([f"**Made-up data.** {MADE_UP}"] if run.made_up else []),
        _what(run, corpus),
        "## How to use it",
        usage(corpus, settings),
        "## Training data",
        _data(run, corpus),
        "## Training",
        _training(run),
        "## Evaluation",
        _evaluation(run, corpus),
        "## Intended use",
        _intended(corpus),
        "## Limits",
        _limits(run, corpus, settings, precision),
        "## Versions",
        _versions(run),
    ]
    return front_matter(run) + "\n" + "\n\n".join(parts) + "\n"


def front_matter(run: Run) -> str:
    """What the hub reads: YAML between two lines of hyphens."""
    from huggingface_hub import ModelCardData

    settings, source = run.record("finetune")["settings"], run.record("harvest").get("settings", {}).get("source")
    arxiv = source in ("arxiv", "oai", "rss", "snapshot", "archive")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base(settings["model"]),
        license=_license(settings["model"]),
        language="en" if arxiv or source == "sample" else None,
        model_name=run.name,
        tags=["titlesmith", *["arxiv"] * arxiv, *["lora"] * bool(settings.get("lora_rank"))],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def base(model: str) -> str | None:
    """The name that a model has on the hub; None for one made on the spot, or of a folder of the project."""
    source = model.removeprefix(hub.PREFIX)
    named = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source, re.ASCII) and source != "scratch"
    if not hub.is_hub(model) or not named or (root() / source).is_dir():
        return HUB.get(model)
    return source


def _license(model: str) -> str | None:
    """OpenAI's of GPT-2, or what the card of a model that is here says."""
    if model in GPT2:
        return "mit"
    path = hub.model_path(model) / "README.md"
    if not base(model) or not path.is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        found = (metadata_load(path) or {}).get("license")
    except Exception:  # a card that is not what the hub asks for says nothing
        return None
    return found if isinstance(found, str) else None


def _what(run: Run, corpus: Corpus) -> str:
    settings = run.record("finetune")["settings"]
    model, rank, name = settings["model"], settings.get("lora_rank"), base(settings["model"])
    writes, takes = (" and ".join(part) for part in (corpus.template.completion_fields, corpus.template.prompt_fields))
    given = (
        f"writes the {writes} for a given {takes}"
        if takes
        else f"writes the {writes} of a paper, from a beginning or from none"
    )
    if model in ("scratch", hub.PREFIX + "scratch"):
        start = f"It is a small {'LLaMA' if hub.is_hub(model) else 'GPT-2'} that knew nothing before."
    else:
        which = f"[{name}](https://huggingface.co/{name})" if name else "a model of a local folder"
        how = f"through low-rank adapters of rank {rank}" if rank else "whole"
        start = f"It is {which}, fine-tuned {how}, and under the licence of that model."
    if rank:
        start += " The adapters are merged into the weights here; alone, for `peft`, they lie in the folder `adapter/`."
    kept = run.record("harvest").get("counts", {}).get("kept", 0)
    return f"This language model {given}. {start} titlesmith trained it, on {kept:,} {'made-up ' * run.made_up}papers."


def _data(run: Run, corpus: Corpus) -> str:
    record = run.record("harvest")
    settings, papers = record.get("settings", {}), record.get("counts", {})
    facts = {"source": SOURCES.get(settings.get("source"), "unknown")}
    if settings.get("path") and settings.get("source") in ("snapshot", "archive", "csv", "alpaca"):
        facts["file"] = Path(settings["path"]).name
    facts |= {key: ", ".join(settings[key]) for key in ("categories",) if settings.get(key)}
    facts |= {key: settings[key] for key in ("query", "since", "until") if settings.get(key)}
    facts["harvested"] = (record.get("ended") or "unknown")[:10]
    facts["rows read"] = f"{papers.get('read', 0):,}"
    facts |= {why: f"{papers[key]:,}" for key, why in COUNTS.items() if papers.get(key)}
    if faults := sum(found["rows"] for found in record.get("faults", {}).values()):
        facts["rows that are no papers"] = f"{faults:,}"
    by_date = run.record("corpus").get("settings", {}).get("order", "date") == "date"
    splits = [
        {
            "split": row["split"],
            "documents": f"{row['documents']:,}",
            "tokens": f"{row['tokens']:,}",
            "papers from": row["first"] or "unknown",
            "until": row["last"] or "unknown",
            "cut": f"{row['cut']:,}",
        }
        for row in corpus.counts
    ]
    dropped = [{"reason": row["reason"], "papers": f"{row['papers']:,}"} for row in corpus.dropped if row["papers"]]
    return "\n\n".join([
        _table([{"what": key, "value": value} for key, value in facts.items()]),
        "Texts were cleaned (Unicode form C, one line, LaTeX accents as characters) and split "
        + ("by date, the oldest to train" if by_date else "at random")
        + ". Of papers with the same text the oldest was kept.",
        _table(splits),
        "What was dropped:\n\n" + _table(dropped) if dropped else "Nothing was dropped.",
        f"The form of a document, fields in braces:\n\n~~~~text\n{corpus.template.prompt or '(no prompt)'}\n"
        f"~~~~\n\n~~~~text\n{corpus.template.completion}\n~~~~",
    ])  # fmt: skip


def _training(run: Run) -> str:
    training = run.record("finetune")
    settings = {
        key: value for key, value in training["settings"].items() if key not in ("model", "run_name", *EXECUTION_ONLY)
    }
    if not settings.get("lora_rank"):
        settings = {key: value for key, value in settings.items() if key not in LORA}
    facts = []
    if steps := training.get("steps"):
        kept = training.get("kept_step", steps)
        facts.append(f"{steps:,} steps were done; the weights are those of step {kept:,}.")
    if reason := training.get("stop_reason"):
        facts.append(f"Training stopped because {escape(reason, quote=False)}.")
    if seconds := training.get("seconds"):
        facts.append(f"It took {seconds / 60:,.0f} minutes." if seconds > 90 else f"It took {seconds} seconds.")
    table = _table([{"setting": key, "value": value} for key, value in settings.items()])
    return f"{' '.join(facts)}\n\n{table}".strip()


def _evaluation(run: Run, corpus: Corpus) -> str:
    if not run.is_current("evaluate"):
        return "This model has not been evaluated."
    metrics = run.metrics
    names = (*report.FAULTS, *report.STYLE, *(report.PROMPTED if corpus.has_prompt else ()))
    try:
        perplexities, figures = report.perplexities(metrics, run.name), report.beside(metrics, names)
    except KeyError as error:
        raise RunError(
            f"{run / 'metrics.json'} lacks {error}: it is damaged or from an older version. "
            f"Run {notebook('evaluate').name} again"
        ) from None
    return "\n\n".join([
        "Perplexity a token, each document on its own"
        + (", of what stands behind the prompt alone" if corpus.has_prompt else "")
        + "; in brackets 95% intervals by the bootstrap over documents:",
        _table(perplexities),
        f"{metrics['texts']:,} texts that the model wrote, beside {metrics['human']['texts']:,} texts by people from "
        "papers that it never read; in brackets 95% intervals (Wilson's of shares, else by the bootstrap):",
        _table(figures),
    ])  # fmt: skip


def _intended(corpus: Corpus) -> str:
    writes = " and ".join(corpus.template.completion_fields)
    return (
        f"Drafts: a person reads what it writes, judges it, and writes the {writes}. Study: of what a model learns "
        "from the texts of a field, and of how it learns it. It is not meant to write what is published as anybody's "
        "research, to judge papers, or to tell what is known."
    )


def _limits(run: Run, corpus: Corpus, settings: dict, precision: str) -> str:
    training = run.record("finetune")["settings"]
    found = run.metrics if run.is_current("evaluate") else {}
    copies = "Some of what it writes may be a training text, word for word or nearly: compare before use."
    if found.get("copy_rate") is not None and found.get("near_copy_rate") is not None:
        copies += (
            f" Of {found['texts']:,} texts, {found['copy_rate']:.1%} were copies and {found['near_copy_rate']:.1%} "
            "copies or near copies."
        )
    last = next((row["last"] for row in corpus.counts if row["split"] == "train"), None)
    categories = [row["category"] for row in corpus.categories if row["category"] not in (None, "other")]
    known = f" The most frequent categories: {', '.join(map(_cell, categories[:3]))}." if categories else ""
    said = [
        copies,
        "It knows what is likely, not what is true: methods, results, numbers and names in its texts are inventions.",
        f"It knows the language and the topics of its training texts and no others.{known}"
        + (f" They end with {last}." if last else ""),
        "It says what papers say, with the leanings that their choice and their authors have.",
        f"It reads {corpus.info['context']:,} tokens at most, prompt and text together.",
    ]
    if not corpus.has_prompt:
        said.append(
            "End a beginning behind a whole word, without a space. titlesmith takes the last word of a beginning back "
            "and lets the model spell it; transformers goes on behind the tokens that it is given."
        )
    said.append(
        "titlesmith draws a text again, five draws in all, that does not end or holds a stray delimiter"
        + (", leaves out repeats and copies" if settings["unique"] or settings["best_of"] > 1 else "")
        + (f", and keeps the likeliest of {settings['best_of']}" if settings["best_of"] > 1 else "")
        + ". transformers prints what comes first."
    )
    changing = {key: why for key, why in CHANGING.items() if settings[key] != getattr(GenerationSettings, key)}
    said += [f"With `{key}` set, transformers {why}; titlesmith does not." for key, why in changing.items()]
    if training.get("lora_rank") and precision != "float32":
        said.append(
            f"Weights with adapters merged in are rounded to {precision}: texts may differ a little from those of the "
            "adapters beside the weights."
        )
    if training.get("quantize", "none") != "none":
        said.append(
            f"The adapters were trained beside weights in {training['quantize']} and are merged into the weights "
            "as they are published, so that figures may differ slightly from those above."
        )
    return "\n".join(f"- {line}" for line in said)


def _versions(run: Run) -> str:
    then, now = run.info.get("versions", {}), versions()
    rows = {
        name: {"package": name, "trained with": then.get(name, ""), "exported with": now.get(name, "")}
        for name in then | now
    }
    return _table(list(rows.values()))


def _table(rows: list[dict]) -> str:
    """A table in Markdown; columns are the keys of the first row."""
    if not rows:
        return "None."
    head = f"| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}\n"
    return head + "\n".join(f"| {' | '.join(map(_cell, row.values()))} |" for row in rows)


def _cell(value: object) -> str:
    """A value in one line in which nothing is Markdown's or HTML's."""
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or "none"
    return re.sub(r"([\\`*_|\[\]$])", r"\\\1", escape(" ".join(str(value).split()), quote=False))
