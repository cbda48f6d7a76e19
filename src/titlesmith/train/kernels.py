"""Compiled functions between the matrix products of GPT-2's training step.

XLA compiles each of them, forward and backward, into a few loops, so that memory is read and written once instead of a
dozen times. Gradients are TensorFlow's, of the recomputed function (`recomputed`), except for one derivative.

Shapes: N tokens (rows times block), D width, H heads.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import tensorflow as tf

from titlesmith import models

EPSILON = 1e-5  # of the layer normalizations, as in GPT-2
SUM_BLOCK = 32  # rows that are summed at a time


@cache
def can_compile() -> bool:
    """Whether XLA compiles: always for a processor, for a GPU if its libraries are complete; prints why not."""
    if not models.gpus():
        return True
    try:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [64])  # a constant would be folded on the processor
            session.run(tf.function(tf.tanh, jit_compile=True, autograph=False)(x), {x: np.ones(64)})
    except tf.errors.OpError as error:
        reason = error.message.strip().partition("\n")[0][:200]
        print(f"XLA cannot compile for this GPU ({reason}): training uses TensorFlow's plain graph, which is slower")
        return False
    return True


def compiled(function: Callable) -> Callable:
    """A function of tensors compiled by XLA, once for all calls with the same shapes and types; plain without XLA.

    A plain `tf.function` would be traced and compiled again for each op that a gradient is taken of.
    """
    traced, known = tf.function(function, jit_compile=can_compile() or None, autograph=False), {}

    def call(*tensors):
        tensors = list(map(tf.convert_to_tensor, tensors))
        kinds = tuple(tf.TensorSpec(x.shape, x.dtype) for x in tensors)
        if kinds not in known:
            known[kinds] = traced.get_concrete_function(*kinds)
        return known[kinds](*tensors)

    return call


def recomputed(function: Callable) -> Callable:
    """A compiled function whose compiled gradient recomputes the function, so that only its inputs are kept.

    Tensors in ``fixed`` are passed to the function after the others and get no gradient.
    """
    forward, gradients = compiled(function), {}

    def call(*inputs, fixed=()):
        count, total = len(inputs), len(inputs) + len(fixed)

        def gradient(*tensors):
            return tf.gradients(function(*tensors[:total]), list(tensors[:count]), list(tensors[total:]))

        backward = gradients.setdefault((count, total), compiled(gradient))

        @tf.custom_gradient
        def run(*inputs):
            return forward(*inputs, *fixed), lambda *dys: backward(*inputs, *fixed, *dys)

        return run(*inputs)

    return call


def f32(x: tf.Tensor) -> tf.Tensor:
    """A tensor in float32."""
    return tf.cast(x, tf.float32)


def per_block(vector: tf.Tensor, count: int) -> tf.Tensor:
    """A vector (D,) for each block of ``count`` rows, (blocks, D): XLA sums gradients of all rows on one core only."""
    return tf.broadcast_to(vector, [count // math.gcd(count, SUM_BLOCK), vector.shape[0]])


def per_row(vectors: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Vectors of `per_block` for the rows of ``x`` (N, D)."""
    blocks, (rows, width) = vectors.shape[0], x.shape
    return tf.reshape(tf.broadcast_to(vectors[:, None], [blocks, rows // blocks, width]), [rows, width])


def drop(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Dropout (Srivastava et al. 2014); the same ``seed`` (2,) drops the same, forward and backward.

    The random bits are a hash of position and seed, lowbias32 (Wellons 2018) twice: 500 times as fast on a processor as
    TensorFlow's generators.
    """
    if not rate:
        return x
    position, key = tf.range(x.shape.num_elements()), tf.bitcast(seed, tf.uint32)
    bits = _hash(_hash(tf.bitcast(position, tf.uint32) + key[0]) ^ key[1])
    kept = tf.reshape(bits >= int(rate * 2**32), x.shape)
    return tf.where(kept, x / (1 - rate), tf.zeros_like(x))


def _hash(bits: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32))) * tf.constant(factor, tf.uint32)
    return bits ^ tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32))


def token_nats(logits: tf.Tensor, labels: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each row in nats, (N,), float32, from logits (N, V) of any type and labels (N,).

    ``offsets`` (V,), float32, are added to each row; they are -inf for columns that are padding.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, f32(logits) + offsets)


class Kernels:
    """The compiled functions of a training step, for rows of a shape, heads and dropout of a model.

    Results have the type ``kind`` of the matrix products; ``dropout`` is the share of activations that are set to zero.
    Vectors (D,) that apply to every row come from `per_block`.
    """

    def __init__(self, rows: int, block: int, hyperparameters: dict, dropout: float, kind: tf.DType):
        self.rows, self.block, self.dropout, self.kind = rows, block, dropout, kind
        self.count, self.width = hyperparameters["n_head"], hyperparameters["n_embd"] // hyperparameters["n_head"]
        functions = (self._add_norm, self._heads, self._attention, self._gelu)
        self.add_norm, self.heads, self.attention, self.gelu = map(recomputed, functions)

    def _add_norm(self, h, o, bias, gain, offset, seed):
        """Adds a layer's output ``o`` (N, D) and its bias to the residual stream ``h`` (N, D), and normalizes the sum.

        Returns the new stream, in float32, and its layer normalization (Ba et al. 2016).
        """
        h += drop(f32(o) + per_row(bias, o), self.dropout, seed)
        centered = h - tf.reduce_mean(h, -1, keepdims=True)
        scale = tf.math.rsqrt(tf.reduce_mean(centered * centered, -1, keepdims=True) + EPSILON)
        return h, tf.cast(centered * scale * per_row(gain, h) + per_row(offset, h), self.kind)

    def _heads(self, c, bias):
        """Queries, scaled, keys and values (rows, H, block, D / H) of ``c`` (N, 3 D)."""
        c = tf.cast(f32(c) + per_row(bias, c), self.kind)
        c = tf.reshape(c, [self.rows, self.block, 3, self.count, self.width])
        q, k, v = tf.unstack(tf.transpose(c, [2, 0, 3, 1, 4]))
        return q * tf.cast(self.width**-0.5, self.kind), k, v

    def _attention(self, scores, document_ids, seed):
        """Attention weights (rows, H, block, block): softmax over a token and those before it in its document."""
        position = tf.range(self.block)
        same = tf.equal(document_ids[:, None, :, None], document_ids[:, None, None, :])
        weights = tf.nn.softmax(tf.where(same & (position <= position[:, None]), f32(scores), -np.inf))
        return tf.cast(drop(weights, self.dropout, seed), self.kind)

    def _gelu(self, u, bias):
        """The gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016) of ``u`` (N, 4 D) + bias."""
        return tf.cast(_gelu(f32(u) + per_row(bias, u)), self.kind)


@tf.custom_gradient
def _gelu(x):
    # Written by hand: TensorFlow's derivative takes 19 ms a layer of 124M instead of 12, 5% of a step
    scale = math.sqrt(2 / math.pi)

    def gradient(dy):
        t = tf.tanh(scale * (x + 0.044715 * x * x * x))
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x * x))

    return 0.5 * x * (1 + tf.tanh(scale * (x + 0.044715 * x * x * x))), gradient
