"""The model ``base``: a small GPT-2 trained on titles of arXiv, shipped with the package as 8-bit integers.

``base/weights.npz`` has two arrays for each matrix: its rows as int8, and the scale of each row as float16, so that a
row is scale * int8; the largest weight of a row becomes 127. Rows of the embeddings are tokens and positions, rows of
the other matrices are outputs. Vectors are float16. ``base/`` also has the vocabulary and a model card.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.models import gpt2_checkpoint
from titlesmith.models.catalogue import BASE, shapes
from titlesmith.models.catalogue import BASE_FOLDER as FOLDER
from titlesmith.runs import replacing

WEIGHTS = "weights.npz"
MAX_INT8 = 127
EMBEDDINGS = ("model/wte", "model/wpe")
# Bits per byte of texts before any fine-tuning. Measured: titles of arXiv 1.6 to 1.7, abstracts of cs.CL 2.0, five
# short synopses of films 2.8, five tweets 3.6
FAR = 2.0


def read() -> tuple[dict[str, np.ndarray], Tokenizer]:
    """The weights, float32, by the names and with the shapes of gpt-2-simple's variables, and the vocabulary."""
    with np.load(FOLDER / WEIGHTS, allow_pickle=False) as file:
        return dequantize(file, BASE), Tokenizer.load(FOLDER)


def advice(model: str, bits_per_byte: float | None) -> str:
    """A sentence for texts that are not like titles, measured before training; empty for others and other models."""
    if model != "base" or bits_per_byte is None or bits_per_byte < FAR:
        return ""
    return (
        f"base expects titles of papers (1.7 bits per byte), and these texts are unlike them ({bits_per_byte:.1f} bits "
        "per byte before training). smollm2 and 124M suit them better: set model"
    )


def quantize(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of ``weights.npz`` from the variables of any GPT-2."""
    arrays = {}
    for name, value in weights.items():
        if value.ndim == 1:
            arrays[name] = value.astype(np.float16)
            continue
        rows = value if name in EMBEDDINGS else value.reshape(value.shape[-2:]).T
        scale = (np.abs(rows).max(axis=1) / MAX_INT8).astype(np.float16)
        arrays[f"{name}/scale"] = scale
        divisor = np.maximum(scale.astype(np.float32), np.finfo(np.float16).tiny)[:, None]
        arrays[name] = np.clip(np.rint(rows / divisor), -MAX_INT8, MAX_INT8).astype(np.int8)
    return arrays


def dequantize(arrays: Mapping[str, np.ndarray], hyperparameters: dict) -> dict[str, np.ndarray]:
    """The variables, float32, from the arrays of `quantize`."""
    weights = {}
    for name, shape in shapes(hyperparameters).items():
        rows = arrays[name].astype(np.float32)
        if rows.ndim == 2:
            rows *= arrays[f"{name}/scale"].astype(np.float32)[:, None]
        weights[name] = (rows if name in EMBEDDINGS or rows.ndim == 1 else rows.T).reshape(shape)
    return weights


def pack(model: Path) -> None:
    """Replaces the weights of the package by those of a checkpoint in gpt-2-simple's layout with the shape of base."""
    weights, _ = gpt2_checkpoint.read(model)
    Tokenizer.load(model).save_gpt2(FOLDER)
    with replacing(FOLDER / WEIGHTS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **quantize({name: weights[name] for name in shapes(BASE)}))
