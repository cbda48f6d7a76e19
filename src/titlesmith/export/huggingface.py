"""Export to the transformers library: weights, tokenizer, generation settings, adapter, model card.

Values of a run may come from other people. The card's template, ``card.md.j2``, shows them as plain text: see `escape`.
"""

import json
import re
import shutil
from pathlib import Path

from jinja2 import PackageLoader
from markupsafe import Markup
from markupsafe import escape as escape_html
from transformers import AutoTokenizer, GenerationConfig

from titlesmith.corpus import Corpus
from titlesmith.corpus.template import pieces
from titlesmith.corpus.tokenizer import END
from titlesmith.errors import RunError, shorten
from titlesmith.evaluate import report
from titlesmith.markup import ENVIRONMENT
from titlesmith.models import gguf, gpt2_checkpoint, hub
from titlesmith.models.catalogue import PUBLISHED, describe
from titlesmith.models.weights import merged
from titlesmith.runs import EXECUTION_ONLY, Run, root, versions, write_json
from titlesmith.settings import defaults

NUM_CHECKED = 100  # documents whose tokens are compared
ADAPTER_WEIGHTS = "adapter_model.safetensors"
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
TEMPLATES.globals = ENVIRONMENT.globals | {"report": report, "describe": describe, "PUBLISHED": PUBLISHED, "END": END}
TEMPLATES.globals |= {"EXECUTION_ONLY": EXECUTION_ONLY, "ORIGIN": gguf.ORIGIN}


def write(run: Run, folder: Path) -> None:
    """Writes a run's model into a new folder (RunError if the library encodes the run's texts differently)."""
    corpus, settings = Corpus(run), defaults("generate") | run.record("generate").get("settings", {})
    if (run / "model" / "checkpoint").exists():
        model = gpt2_checkpoint.to_transformers(*gpt2_checkpoint.read(run / "model"))
    else:
        model = merged(run / "model")  # with its adapters
    model.generation_config = _generation_config(settings, corpus, model.get_input_embeddings().num_embeddings)
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):  # safetensors lets only this user read them
        shutil.copymode(folder / "config.json", weights)
    corpus.layout.save_for_transformers(corpus.info["context"], folder)
    _check_tokens(corpus, folder)
    if (adapter := run / "model" / hub.ADAPTER).exists():
        (folder / "adapter").mkdir()
        content = json.loads(adapter.read_text("utf-8"))
        content["base_model_name_or_path"] = base_model(run.record("finetune")["settings"]["model"])
        write_json(folder / "adapter" / hub.ADAPTER, content)
        shutil.copyfile(run / "model" / ADAPTER_WEIGHTS, folder / "adapter" / ADAPTER_WEIGHTS)
    precision = str(model.dtype).removeprefix("torch.")
    (folder / "README.md").write_text(card(run, corpus, settings, precision), "utf-8")


def _generation_config(settings: dict, corpus: Corpus, num_embeddings: int) -> GenerationConfig:
    """The generation settings in the library's names; ids without a token are suppressed."""
    end, is_sampled = corpus.tokenizer.eos_id, settings["beams"] == 1
    return GenerationConfig(
        do_sample=is_sampled,
        **{key: settings[key] for key in ("temperature", "top_k", "top_p") if is_sampled},
        num_beams=settings["beams"],
        max_new_tokens=settings["max_tokens"],
        min_new_tokens=settings["min_tokens"] or None,
        repetition_penalty=settings["repetition_penalty"],
        no_repeat_ngram_size=settings["no_repeat_ngram"],
        suppress_tokens=list(range(len(corpus.tokenizer), num_embeddings)) or None,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def _check_tokens(corpus: Corpus, folder: Path) -> None:
    """Checks that the library encodes the first test documents as the corpus does (RunError)."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    in_pairs = corpus.layout.completion_tokenizer is corpus.tokenizer  # else it would add a space before completions
    for row in corpus.scan("test").head(NUM_CHECKED).collect().iter_rows(named=True):
        texts = [row["prompt"], row["completion"]][: 1 + in_pairs] if corpus.has_prompt else [row["completion"]]
        if tokenizer(*texts, verbose=False)["input_ids"] != corpus.layout.prompt_ids(*texts):
            raise RunError(f"nothing was exported: transformers makes other tokens of {shorten(texts[0])} than the run")


def card(run: Run, corpus: Corpus, settings: dict, precision: str) -> str:
    """The card of a trained run's model, in Markdown, without paths of this machine.

    ``settings`` are the parameters of notebook 04 that generation_config.json has; ``precision`` is the type of the
    weights, such as ``float32``.
    """
    base, (fields, prompt) = base_model(run.record("finetune")["settings"]["model"]), _example(corpus, settings)
    values = {"run": run, "corpus": corpus, "settings": settings, "precision": precision, "base": base}
    values |= {"fields": Markup(fields), "prompt": Markup(prompt), "versions": versions()}
    return TEMPLATES.get_template("card.md.j2").render(values)


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
