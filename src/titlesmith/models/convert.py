"""GPT-2 from one library to the other: OpenAI's variables as a model of the transformers library."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from titlesmith.models.catalogue import HYPERPARAMETERS
from titlesmith.models.machine import tensorflow

KINDS = {"w": "weight", "g": "weight", "b": "bias"}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The variables of a checkpoint in OpenAI's layout by name, and its hyperparameters."""
    reader = tensorflow().train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {name: reader.get_tensor(name) for name in names}, json.loads((path / HYPERPARAMETERS).read_text("utf-8"))


def to_transformers(weights: Mapping[str, np.ndarray], hyperparameters: dict) -> object:
    """A ``GPT2LMHeadModel`` with these weights, in float32 and without dropout.

    Parameters
    ----------
    weights
        By name as in OpenAI's checkpoints, with or without ``model/`` in front: ``h0/attn/c_attn/w``, ``wte``.
    hyperparameters
        As in hparams.json.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    end = hyperparameters["n_vocab"] - 1
    names = {"n_ctx": "n_positions", "n_vocab": "vocab_size"}
    shape = {names.get(key, key): value for key, value in hyperparameters.items()}
    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, value in weights.items():
            parameter = model.transformer.get_parameter(parameter_name(name))
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(parameter.shape))
    return model


def parameter_name(variable: str) -> str:
    """What transformers calls a variable of OpenAI's: ``h.0.attn.c_attn.weight`` for ``model/h0/attn/c_attn/w``."""
    name = variable.removeprefix("model/")
    if "/" not in name:
        return f"{name}.weight"
    path, _, kind = re.sub(r"^h(\d+)/", r"h.\1/", name).replace("/", ".").rpartition(".")
    return f"{path}.{KINDS[kind]}"
