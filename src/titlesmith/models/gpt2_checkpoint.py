"""GPT-2 checkpoints: OpenAI's weights from the Hugging Face hub, and conversion between the two layouts.

gpt-2-simple keeps a TensorFlow checkpoint with variables such as ``model/h0/attn/c_attn/w``; the transformers library
keeps safetensors with tensors such as ``h.0.attn.c_attn.weight``.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from safetensors import SafetensorError, safe_open

from titlesmith.corpus.tokenizer import FILES
from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.models import hub
from titlesmith.models.catalogue import GPT2, HYPERPARAMETERS, folder, missing_files, model_path, shapes
from titlesmith.models.devices import tensorflow
from titlesmith.runs import digest, swapping, write_json

ENDPOINT_VARIABLE = "TITLESMITH_MODELS"  # address of a mirror of the hub, for these models alone
WEIGHTS, CHECKSUMS = "model.safetensors", "SHA256SUMS"
# Repository and pinned revision by model. A revision fixes every file's content.
REPOSITORIES = {
    "124M": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "355M": ("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "774M": ("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "1558M": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
}
# The hub's vocabulary files are OpenAI's under other names.
VOCABULARY = dict(zip(("vocab.json", "merges.txt"), FILES, strict=True))
SHA256 = {
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "124M": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    "1558M": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
}
SUFFIXES = {"w": "weight", "g": "weight", "b": "bias"}


def fetch(name: str) -> Path | None:
    """Makes sure that a model's files are here: downloads OpenAI's sizes and the hub's models if they are missing.

    Parameters
    ----------
    name
        Any model name; ``scratch`` models and folders need no download.

    Returns
    -------
    Path or None
        The model's folder; None where there is nothing to download.

    Raises
    ------
    FetchError
        The hub cannot be reached, or a file is not what it should be. Complete files are kept for the next attempt.
    RequestError
        The hub has no such model, or a folder is incomplete.
    """
    if name in ("", "scratch", "hf:scratch"):
        return None
    if name not in GPT2:
        return folder(name)
    path = model_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{name}.lock")):  # a second process waits, and then finds the model
        if not path.is_dir():
            _download(name, path)
        elif (path / CHECKSUMS).is_file() and not missing_files(path):
            _verify_checksums(path, name)
    return folder(name)


def _download(name: str, path: Path) -> None:
    """Downloads a model from the hub and converts it into gpt-2-simple's layout."""
    repository, revision = REPOSITORIES[name]
    endpoint = os.environ.get(ENDPOINT_VARIABLE) or None
    downloads = path.with_name(f".{name}.download")  # kept after an interruption, so that the client resumes
    print(f"downloading {name} from {endpoint or 'the Hugging Face hub'}: {repository}")
    try:
        for file in (*VOCABULARY, WEIGHTS):
            where = {"revision": revision, "endpoint": endpoint}
            local = Path(hf_hub_download(repository, file, local_dir=downloads, **where))
            expected = SHA256.get(name if file == WEIGHTS else file)
            if expected is None:  # the hub's ETag of a large file is its SHA-256
                etag = get_hf_file_metadata(hf_hub_url(repository, file, **where)).etag or ""
                expected = etag if re.fullmatch("[0-9a-f]{64}", etag) else None
            if expected and digest(local) != expected:
                local.unlink()
                raise FetchError(
                    f"{repository}/{file}: its SHA-256 is not {expected}. The file was removed; the same command "
                    "downloads it again"
                )
        with swapping(path) as new:
            _write_checkpoint(downloads, new, GPT2[name])
    except (FetchError, RunError):
        raise
    except Exception as error:  # the hub's client lets many kinds through: its own, httpx's, the disk's
        found = hub.hub_error(name, error)
        raise type(found)(f"{found} `{ENDPOINT_VARIABLE}` or `HF_ENDPOINT` set a mirror") from None
    shutil.rmtree(downloads)


def _write_checkpoint(source: Path, target: Path, hyperparameters: dict) -> None:
    """Writes a model of the hub as a folder in gpt-2-simple's layout, with checksums."""
    weights = read_safetensors(source / WEIGHTS, hyperparameters)
    for theirs, ours in VOCABULARY.items():
        shutil.copyfile(source / theirs, target / ours)
    write_json(target / HYPERPARAMETERS, hyperparameters)
    save(target / "model.ckpt", weights)
    (target / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )
    files = sorted(file for file in target.iterdir() if file.name != CHECKSUMS)
    (target / CHECKSUMS).write_text("".join(f"{digest(file)}  {file.name}\n" for file in files), "utf-8")


def _verify_checksums(path: Path, name: str) -> None:
    """Compares a downloaded model's files with the checksums of their download (RunError)."""
    for line in (path / CHECKSUMS).read_text("utf-8").splitlines():
        expected, _, file = line.partition("  ")
        if not (path / file).is_file() or digest(path / file) != expected:
            raise RunError(
                f"{path / file} has changed since its download: its SHA-256 is not {expected}. Remove {path}, and "
                f"`titlesmith models get {name}` downloads it again"
            )


def read_safetensors(path: Path, hyperparameters: dict) -> dict[str, np.ndarray]:
    """GPT-2's variables by gpt-2-simple's names, read from safetensors.

    Raises
    ------
    FetchError
        The file is damaged, or a tensor is missing or has another shape.
    """
    weights = {}
    try:
        with safe_open(path, "numpy") as file:
            stored = {key.removeprefix("transformer."): key for key in file.keys()}  # noqa: SIM118
            for variable, shape in shapes(hyperparameters).items():
                key = stored[parameter_name(variable)]
                weights[variable] = file.get_tensor(key).astype(np.float32).reshape(shape)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise FetchError(f"{path} is not the model's weights: {error}. Remove it, and repeat the command") from None
    return weights


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
    """The variables of a checkpoint folder in gpt-2-simple's layout by name, and its hyperparameters.

    Raises
    ------
    RequestError
        The checkpoint cannot be read.
    """
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

    Parameters
    ----------
    weights
        By name as in gpt-2-simple's checkpoints, with or without the prefix ``model/``.
    hyperparameters
        As in hparams.json.
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
