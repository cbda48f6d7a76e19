"""GPT-2 checkpoints: conversion between the layouts of gpt-2-simple and the transformers library.

gpt-2-simple keeps a TensorFlow checkpoint with variables such as ``model/h0/attn/c_attn/w``; the transformers library
keeps safetensors with tensors such as ``h.0.attn.c_attn.weight``.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from titlesmith.corpus import tokenizer
from titlesmith.errors import RequestError
from titlesmith.models.catalogue import HYPERPARAMETERS, shapes
from titlesmith.models.devices import tensorflow
from titlesmith.runs import write_json

WEIGHTS = "model.safetensors"
VOCABULARY = dict(zip(("vocab.json", "merges.txt"), tokenizer.FILES, strict=True))  # the hub's names, and OpenAI's
FILES = (*VOCABULARY, WEIGHTS)
SUFFIXES = {"w": "weight", "g": "weight", "b": "bias"}


def convert(source: Path, target: Path, hyperparameters: dict) -> None:
    """Writes a model of the hub (`FILES`) as a folder in gpt-2-simple's layout."""
    stored = {key.removeprefix("transformer."): value for key, value in load_file(source / WEIGHTS).items()}
    weights = {
        variable: stored[parameter_name(variable)].astype(np.float32, copy=False).reshape(shape)
        for variable, shape in shapes(hyperparameters).items()
    }
    for theirs, ours in VOCABULARY.items():
        shutil.copyfile(source / theirs, target / ours)
    write_json(target / HYPERPARAMETERS, hyperparameters)
    save(target / "model.ckpt", weights)
    lines = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    (target / "checkpoint").write_text(lines, "utf-8")


def save(prefix: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes variables as a TensorFlow checkpoint, ``<prefix>.index`` and ``<prefix>.data-00000-of-00001``."""
    tf = tensorflow()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tensors = {name: tf.compat.v1.placeholder(tf.float32, value.shape) for name, value in weights.items()}
        write = tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )
        session.run(write, {tensors[name]: value for name, value in weights.items()})


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The variables by name and the hyperparameters of a folder in gpt-2-simple's layout (RequestError if damaged)."""
    tf = tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(path))
        names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
        weights = {name: reader.get_tensor(name) for name in names}
        return weights, json.loads((path / HYPERPARAMETERS).read_text("utf-8"))
    except (tf.errors.OpError, RuntimeError, ValueError, OSError) as error:
        raise RequestError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from None


def to_transformers(weights: Mapping[str, np.ndarray], hyperparameters: dict) -> object:
    """A ``GPT2LMHeadModel`` with these weights, in float32 and without dropout.

    ``weights`` are named as in gpt-2-simple's checkpoints, with or without the prefix ``model/``.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    eos = hyperparameters["n_vocab"] - 1
    names = {"n_ctx": "n_positions", "n_vocab": "vocab_size"}
    shape = {names.get(key, key): value for key, value in hyperparameters.items()}
    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=eos, eos_token_id=eos)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, value in weights.items():
            parameter = model.transformer.get_parameter(parameter_name(name))
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(parameter.shape))
    return model


def parameter_name(variable: str) -> str:
    """The transformers name of a variable: ``h.0.attn.c_attn.weight`` for ``model/h0/attn/c_attn/w``."""
    name = variable.removeprefix("model/")
    if "/" not in name:
        return f"{name}.weight"
    path, _, kind = re.sub(r"^h(\d+)/", r"h.\1/", name).replace("/", ".").rpartition(".")
    return f"{path}.{SUFFIXES[kind]}"
