"""The catalogue: ``scratch``, OpenAI's four, folders in their layout, and what `titlesmith.models.hub` knows.

``scratch`` is a small GPT-2 made on the spot. ``124M 355M 774M 1558M`` are OpenAI's (Radford et al. 2019), below
``models/<name>/`` in OpenAI's layout. Names that begin with ``hf:`` are models of the transformers library. Any other
name is a folder in OpenAI's layout, such as one that gpt-2-simple wrote.
"""

import json
import math
import re
from pathlib import Path

from titlesmith.corpus.tokens import FILES
from titlesmith.errors import RequestError
from titlesmith.models import hub
from titlesmith.runs.record import root

HYPERPARAMETERS = "hparams.json"
# 4 layers of width 192: 2.8 million parameters with a vocabulary of 5,000.
SCRATCH = {"n_ctx": 256, "n_embd": 192, "n_head": 6, "n_layer": 4}
GPT2 = {
    name: {"n_vocab": 50257, "n_ctx": 1024, "n_embd": width, "n_head": heads, "n_layer": layers}
    for name, width, heads, layers in (
        ("124M", 768, 12, 12),
        ("355M", 1024, 16, 24),
        ("774M", 1280, 20, 36),
        ("1558M", 1600, 25, 48),
    )
}
# As OpenAI publishes them; `checkpoint` comes last, because a folder without it is no model.
OPENAI = (
    HYPERPARAMETERS,
    *FILES,
    "model.ckpt.index",
    "model.ckpt.meta",
    "model.ckpt.data-00000-of-00001",
    "checkpoint",
)


def shapes(hyperparameters: dict) -> dict[str, list[int]]:
    """The variables of a GPT-2 by name, with their shapes as checkpoints store them."""
    width, result = hyperparameters["n_embd"], {}
    norm = {"g": [width], "b": [width]}

    def layer(size: int, out: int) -> dict[str, list[int]]:
        return {"w": [1, size, out], "b": [out]}

    block = {
        "ln_1": norm,
        "attn/c_attn": layer(width, 3 * width),
        "attn/c_proj": layer(width, width),
        "ln_2": norm,
        "mlp/c_fc": layer(width, 4 * width),
        "mlp/c_proj": layer(4 * width, width),
    }
    groups = {f"h{i}/{part}": own for i in range(hyperparameters["n_layer"]) for part, own in block.items()}
    result["model/wpe"], result["model/wte"] = [hyperparameters["n_ctx"], width], [hyperparameters["n_vocab"], width]
    for group, own in (groups | {"ln_f": norm}).items():
        result |= {f"model/{group}/{name}": shape for name, shape in own.items()}
    return result


def parameters(hyperparameters: dict) -> int:
    """How many numbers a model learns."""
    return sum(map(math.prod, shapes(hyperparameters).values()))


def place(name: str) -> Path:
    """The folder that a name means, whether it is there or not."""
    if hub.is_hub(name):
        return hub.place(name)
    return root() / "models" / name if name in GPT2 else root() / name


def lacking(path: Path) -> list[str]:
    """What a folder lacks to be a model in OpenAI's layout: names of files; empty where it is whole.

    The checkpoint must be as long as its hparams.json asks for, so that a download cut short is no model.
    """
    if files := [f for f in (HYPERPARAMETERS, *FILES, "checkpoint") if not (path / f).is_file()]:
        return files
    named = re.search(r'^model_checkpoint_path: "(.+)"', (path / "checkpoint").read_text("utf-8"), re.MULTILINE)
    if not named:
        return ["checkpoint (this one names no model.ckpt)"]
    prefix = path / named[1]  # which may be absolute
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        return [f"{prefix.name}.index"]
    length = sum(shard.stat().st_size for shard in prefix.parent.glob(f"{prefix.name}.data-*"))
    whole = 4 * parameters(_read(path))
    return [f"{prefix.name}.data-* ({length:,} bytes of {whole:,} are here)"] if length < whole else []


def folder(name: str) -> Path:
    """Where the files of a pretrained model lie.

    Raises
    ------
    RequestError
        A file is missing; the message says which and how to get it.
    """
    if hub.is_hub(name):
        return hub.folder(name)
    path = place(name)
    if not path.is_dir() and name not in GPT2:
        known = ", ".join(("scratch", *GPT2, "hf:scratch", "hf:NAME"))
        raise RequestError(f"model: {name!r} is not here, at {path}. Names: {known}, or a folder. {remedy(name)}")
    if missing := lacking(path):
        raise RequestError(f"model: {path} lacks {', '.join(missing)}. {remedy(name)}")
    return path


def remedy(name: str) -> str:
    """What to do where a model's files are missing."""
    if name in GPT2:
        return (
            f"`titlesmith models get {name}` fetches them. Where there is no network, run it where there is one and "
            f"copy models/{name} here, to {place(name)}: {', '.join(OPENAI)}"
        )
    return f"It needs {HYPERPARAMETERS}, {', '.join(FILES)}, checkpoint and the files that it names, as OpenAI's have"


def hyperparameters(name: str, vocabulary: int) -> dict:
    """A model's ``n_vocab n_ctx n_embd n_head n_layer``; OpenAI's are known before their files are here.

    Parameters
    ----------
    name
        The model.
    vocabulary
        ``n_vocab`` of ``scratch`` and ``hf:scratch``, which learn their own.

    Raises
    ------
    RequestError
        The model is no known one and not here either.
    """
    if name == "scratch":
        return SCRATCH | {"n_vocab": vocabulary}
    if hub.is_hub(name):
        return hub.hyperparameters(name, vocabulary)
    if name in GPT2 and lacking(place(name)):
        return GPT2[name]
    return _read(folder(name))


def _read(path: Path) -> dict:
    try:
        found = json.loads((path / HYPERPARAMETERS).read_text("utf-8"))
        return {key: int(found[key]) for key in GPT2["124M"]}
    except (ValueError, KeyError, TypeError) as error:
        keys = ", ".join(GPT2["124M"])
        raise RequestError(f"{path / HYPERPARAMETERS} is damaged ({error!r}): it needs {keys}") from None


def vocabulary(name: str) -> Path | None:
    """The folder with a model's vocabulary; None for ``scratch``, which learns its own from the corpus."""
    return None if name in ("scratch", "hf:scratch") else folder(name)


def context(name: str) -> int:
    """The longest row that a model reads, in tokens."""
    return hyperparameters(name, 0)["n_ctx"]


def names() -> list[str]:
    """Every model that can be named here: the known ones, and folders below ``models/``."""
    own = [p.parent for p in sorted((root() / "models").glob(f"*/{HYPERPARAMETERS}")) if p.parent.name not in GPT2]
    return ["scratch", *GPT2, *(str(p.relative_to(root())) for p in own), *hub.names()]
