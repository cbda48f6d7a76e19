"""Models by name: what they are made of and where their files lie.

``scratch`` is a small GPT-2 made on the spot. ``124M 355M 774M 1558M`` are OpenAI's, below ``models/<name>/`` in
OpenAI's layout. Any other name is a folder in that layout, such as one that gpt-2-simple wrote.
"""

import json
from pathlib import Path

from titlesmith.corpus.tokens import FILES
from titlesmith.errors import RequestError
from titlesmith.run import root

HYPERPARAMETERS = "hparams.json"
GPT2 = ("124M", "355M", "774M", "1558M")
# 4 layers of width 192: 2.8 million parameters with a vocabulary of 5,000.
SCRATCH = {"n_ctx": 256, "n_embd": 192, "n_head": 6, "n_layer": 4}
REMEDY = (
    "It needs hparams.json, encoder.json, vocab.bpe, checkpoint and the model.ckpt files that it names, as OpenAI "
    "publishes them; `gpt_2_simple.download_gpt2(model_dir='models', model_name='124M')` fetches them"
)


def folder(name: str) -> Path:
    """Where the files of a pretrained model lie.

    Raises
    ------
    RequestError
        A file is missing; the message says which and how to get it.
    """
    path = root() / "models" / name if name in GPT2 else root() / name
    if not path.is_dir():
        known = ", ".join(("scratch", *GPT2))
        raise RequestError(f"model: {name!r} is not here, at {path}. {REMEDY}. Names: {known}, or a folder")
    if missing := [f for f in (HYPERPARAMETERS, *FILES, "checkpoint") if not (path / f).is_file()]:
        raise RequestError(f"model: {path} lacks {', '.join(missing)}. {REMEDY}")
    return path


def vocabulary(name: str) -> Path | None:
    """The folder with a model's vocabulary; None for ``scratch``, which learns its own from the corpus."""
    return None if name == "scratch" else folder(name)


def context(name: str) -> int:
    """The longest row that a model reads, in tokens."""
    return SCRATCH["n_ctx"] if name == "scratch" else json.loads((folder(name) / HYPERPARAMETERS).read_text())["n_ctx"]
