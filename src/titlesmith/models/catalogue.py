"""The catalogue: model names, where their files are, and their hyperparameters.

``scratch`` is a small GPT-2 with random weights. ``base`` was trained on titles of arXiv and is shipped with the
package (`titlesmith.models.base`); ``scratch-base`` has its size and random weights. ``82M`` is DistilGPT2 (Sanh et al.
2019), ``124M 355M 774M 1558M`` are OpenAI's GPT-2 (Radford et al. 2019), below ``models/<name>/`` in gpt-2-simple's
layout. ``hf:NAME-OR-PATH`` is a causal model of the transformers library (`titlesmith.models.hub`), as is ``smollm2``
(Allal et al. 2025). Any other name is a folder in gpt-2-simple's layout.
"""

import json
import math
from pathlib import Path

from titlesmith.corpus.tokenizer import FILES
from titlesmith.errors import RequestError, shorten
from titlesmith.hints import did_you_mean
from titlesmith.models import gguf, hub
from titlesmith.runs import root

HYPERPARAMETERS = "hparams.json"
BASE_FOLDER = Path(__file__).with_name("base")
# GPT-2 with random weights: 2.8 million parameters with a vocabulary of 5,000, and 6.9 million with one of 8,192
SCRATCH = {
    "scratch": {"n_ctx": 256, "n_embd": 192, "n_head": 6, "n_layer": 4},
    "scratch-base": {"n_ctx": 128, "n_embd": 256, "n_head": 4, "n_layer": 6},
}
RANDOM = (*SCRATCH, "hf:scratch")  # models without pretrained weights
BASE = SCRATCH["scratch-base"] | {"n_vocab": 8192}
GPT2 = {"base": BASE} | {
    name: {"n_vocab": 50257, "n_ctx": 1024, "n_embd": width, "n_head": heads, "n_layer": layers}
    for name, width, heads, layers in (
        ("82M", 768, 12, 6),
        ("124M", 768, 12, 12),
        ("355M", 1024, 16, 24),
        ("774M", 1280, 20, 36),
        ("1558M", 1600, 25, 48),
    )
}
# Name on the Hugging Face hub, and licence
PUBLISHED = {
    gguf.SMOLLM2: ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "82M": ("distilbert/distilgpt2", "apache-2.0"),
    "124M": ("openai-community/gpt2", "mit"),
    "355M": ("openai-community/gpt2-medium", "mit"),
    "774M": ("openai-community/gpt2-large", "mit"),
    "1558M": ("openai-community/gpt2-xl", "mit"),
}
OWN = {
    "scratch": "a small GPT-2 with random weights",
    "scratch-base": "a GPT-2 of 7 million parameters with random weights",
    "base": "titlesmith's base model, a GPT-2 of 7 million parameters trained on titles of arXiv (licence cc0-1.0)",
    "hf:scratch": "a small LLaMA with random weights",
}


def describe(name: str) -> str:
    """A model in words, with the licence of published weights."""
    if name in PUBLISHED:
        return f"the model {name} ({', licence '.join(PUBLISHED[name])})"
    return OWN.get(name, f"the model {name}")


def shapes(hyperparameters: dict) -> dict[str, list[int]]:
    """The variables of a GPT-2 by name, with their shapes in gpt-2-simple's checkpoints."""
    width = hyperparameters["n_embd"]
    result = {"model/wpe": [hyperparameters["n_ctx"], width], "model/wte": [hyperparameters["n_vocab"], width]}

    def norm(name: str) -> dict[str, list[int]]:
        return {f"model/{name}/g": [width], f"model/{name}/b": [width]}

    def linear(name: str, inputs: int, outputs: int) -> dict[str, list[int]]:
        return {f"model/{name}/w": [1, inputs, outputs], f"model/{name}/b": [outputs]}

    for i in range(hyperparameters["n_layer"]):
        result |= norm(f"h{i}/ln_1")
        result |= linear(f"h{i}/attn/c_attn", width, 3 * width) | linear(f"h{i}/attn/c_proj", width, width)
        result |= norm(f"h{i}/ln_2")
        result |= linear(f"h{i}/mlp/c_fc", width, 4 * width) | linear(f"h{i}/mlp/c_proj", 4 * width, width)
    return result | norm("ln_f")


def num_parameters(hyperparameters: dict) -> int:
    """The number of trainable parameters: ``parameters`` if it is known, or that of a GPT-2 of this shape."""
    return hyperparameters.get("parameters") or sum(map(math.prod, shapes(hyperparameters).values()))


def model_path(name: str) -> Path:
    """The folder of a model, whether it exists or not."""
    if hub.is_hub(name):
        return hub.model_path(name)
    if name == "base":
        return BASE_FOLDER
    return root() / "models" / name if name in GPT2 else root() / name


def missing_files(path: Path) -> list[str]:
    """The files that a folder lacks to be a model in gpt-2-simple's layout; empty if it is complete."""
    if files := [f for f in (HYPERPARAMETERS, *FILES, "checkpoint") if not (path / f).is_file()]:
        return files
    # The checkpoint must be as long as hparams.json implies: an interrupted copy is no model
    size = sum(file.stat().st_size for file in path.glob("*.data-*"))
    expected = 4 * num_parameters(_read(path))
    return [f"model.ckpt.data-* ({size:,} of {expected:,} bytes)"] if size < expected else []


def folder(name: str) -> Path:
    """The folder with a pretrained model's files (RequestError that says which file is missing and how to get it)."""
    if hub.is_hub(name):
        return hub.folder(name)
    path = model_path(name)
    if not path.is_dir() and name not in GPT2:
        known = ", ".join((*SCRATCH, "base", *PUBLISHED, "hf:scratch, hf:NAME, or a folder with hparams.json"))
        hint = did_you_mean(name, names(), 0.7)
        raise RequestError(f"model: {shorten(name)} does not exist.{hint} Names: {known}")
    if name != "base" and (missing := missing_files(path)):
        remedy = f". {gguf.download_remedy(name)}" if name in PUBLISHED else ""
        raise RequestError(f"model: {path} lacks {', '.join(missing)}{remedy}")
    return path


def hyperparameters(name: str, vocabulary: int) -> dict:
    """A model's ``n_vocab n_ctx n_embd n_head n_layer``, of the catalogue's before a download (RequestError).

    ``vocabulary`` is the number of tokens that a model with random weights learns from the corpus.
    """
    if name in SCRATCH:
        return SCRATCH[name] | {"n_vocab": vocabulary}
    if hub.is_hub(name):
        return hub.hyperparameters(name, vocabulary)
    if name in GPT2 and missing_files(model_path(name)):
        return GPT2[name]
    return _read(folder(name))


def _read(path: Path) -> dict:
    try:
        content = json.loads((path / HYPERPARAMETERS).read_text("utf-8"))
        return {key: int(content[key]) for key in BASE}
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path / HYPERPARAMETERS} is damaged ({error!r}): it needs {', '.join(BASE)}") from None


def vocabulary(name: str) -> Path | None:
    """The folder with a model's vocabulary; None for models that learn one from the corpus."""
    return None if name in RANDOM else folder(name)


def context(name: str) -> int:
    """The maximum number of tokens that a model reads at once."""
    return hyperparameters(name, 0)["n_ctx"]


def names() -> list[str]:
    """Every model that can be named: the catalogue's, folders below ``models/``, and the hub's cache."""
    own = [p.parent for p in sorted((root() / "models").glob(f"*/{HYPERPARAMETERS}")) if p.parent.name not in GPT2]
    return [*SCRATCH, "base", *PUBLISHED, *(str(p.relative_to(root())) for p in own), *hub.names()]
