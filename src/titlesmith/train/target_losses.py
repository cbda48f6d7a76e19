"""The losses of a transformers model at its targets: few logits exist at a time, and few of them need be computed.

For a vocabulary of 262,144, logits take more memory and time than the rest of a small model. So the model's head is
called with the targets' hidden states only, computes losses instead of logits, in chunks that the backward pass
recomputes, and in a training step over the tokens of the corpus and a sample of the others (`SampledHead`).

Shapes: N targets, D width, V vocabulary.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from titlesmith.train.sampled_softmax import SampledVocabulary

Model = PreTrainedModel | PeftModel


def cross_entropies(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Nats of each id (N,) under logits (N, V) of any type."""
    return cross_entropy(logits.float(), ids, reduction="none")


def linear_nats(hidden, weight, bias, offsets, ids) -> torch.Tensor:
    """Nats of each id (N,) under a linear head of ``hidden`` (N, D); ``offsets`` (V,) are added to logits, if any."""
    logits = linear(hidden, weight, bias).float()
    return cross_entropies(logits if offsets is None else logits + offsets, ids)


class SampledHead(SampledVocabulary):
    """Embeddings of the used ids in a separate module, so that a training step computes only with these.

    The model's head is linear without bias. Its embeddings are replaced by `train`, and updated by `write`.
    """

    def __init__(self, model: Model, used: np.ndarray):
        self._model = model.get_base_model() if isinstance(model, PeftModel) else model
        self._full, self._head = model.get_input_embeddings(), model.get_output_embeddings()
        super().__init__(self._head.weight.shape[0], used)
        self._used, self._changed = torch.from_numpy(used).long().to(self._head.weight.device), False
        # A copy of the embeddings' module, which may scale its output; the table of an untied head is another parameter
        self._weights, trains = {"weight": self._full.weight}, self._full.weight.requires_grad
        if self._head.weight is not self._full.weight:
            self._weights["head"] = self._head.weight
        self._small = copy.copy(self._full)
        self._small._parameters, self._small.padding_idx, self._small.num_embeddings = {}, None, len(used)
        for name, weight in self._weights.items():
            self._small.register_parameter(name, nn.Parameter(weight.detach()[self._used].clone(), trains))
            weight.requires_grad_(False)
        self._small.register_parameter("shift", nn.Parameter(torch.zeros_like(self._head.weight[0]), trains))

    @property
    def shift(self) -> nn.Parameter:
        """How far the other ids have moved since `write`, (D,)."""
        return self._small.shift

    def train(self) -> None:
        """Gives the model the embeddings of the used ids only, which it reads by `rows`."""
        self._model.set_input_embeddings(self._small)
        self._changed = self.shift.requires_grad

    def write(self) -> None:
        """Gives the model all of its embeddings, brought up to date."""
        self._model.set_input_embeddings(self._full)
        if self._changed:
            with torch.no_grad():
                self._head.weight += self.shift
                self.shift.zero_()
                for name, weight in self._weights.items():
                    weight[self._used] = self._small._parameters[name]
            self._changed = False

    def head(self, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights (used and sampled, D) of a step's softmax, and what is added to its logits."""
        table = self._small._parameters.get("head", self._small.weight)
        offsets = torch.zeros(len(table) + len(others), device=table.device)
        offsets[len(table) :] = np.log(self.scale)
        return torch.cat([table, self._head.weight[others] + self.shift]), offsets


class TargetLosses:
    """Runs a model and computes its losses at targets, with at most ``max_logits`` logits at a time."""

    def __init__(self, max_logits: int):
        self.max_logits, self.linear_nats = max_logits, linear_nats  # which may be compiled
        self._is_plain: bool | None = None

    def is_plain(self, model: Model) -> bool:
        """Whether the model's logits are those of a linear head; some models scale or cap them afterwards."""
        if self._is_plain is None:
            outputs: list[torch.Tensor] = []
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            with torch.no_grad(), _replaced_head(model, lambda hidden: outputs.append(hidden) or hidden):
                self._is_plain = model(input_ids=ids, use_cache=False).logits is outputs[0]
        return self._is_plain and type(model.get_output_embeddings()) is nn.Linear

    def __call__(
        self,
        model: Model,
        ids: np.ndarray,
        targets: np.ndarray,
        labels: np.ndarray,
        position_ids: np.ndarray | None = None,
        weights: tuple | None = None,
        run: Callable | None = None,
    ) -> torch.Tensor:
        """Nats of the predictions (N,) of ``model``, or of ``run``, a wrapper that averages its gradients.

        ``ids`` and ``position_ids`` have shape (rows, block). ``targets`` are positions in ``ids``, counted through the
        rows, and ``labels`` the id that each predicts, (N,). Where position ids restart, transformers masks attention;
        FlashAttention reads this in one row only, so that all rows are concatenated for it. With ``weights`` of
        `SampledHead.head`, ``ids`` and ``labels`` are rows of its table; default: the full vocabulary.
        """
        inputs = {"input_ids": ids}
        if position_ids is not None and (position_ids[:, 1:] == 0).any():
            inputs["position_ids"] = position_ids
            if "flash" in (model.config.get_text_config()._attn_implementation or ""):
                inputs = {name: array.reshape(1, -1) for name, array in inputs.items()}
        inputs = {name: to_device(array, model.device).long() for name, array in inputs.items()}
        targets, labels = (to_device(array, model.device).long() for array in (targets, labels))
        head, plain = model.get_output_embeddings(), self.is_plain(model)
        logits_of = head.forward

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            hidden = hidden.flatten(0, 1)[targets]
            if not plain:
                return logits_of(hidden[None])
            bias = None if weights else head.bias
            return self._chunked(hidden, *(weights or (head.weight, None)), bias, labels)[None, :, None]

        with _replaced_head(model, forward):
            outputs = (run or model)(**inputs, use_cache=False).logits[0]
        return outputs[:, 0] if plain else cross_entropies(outputs, labels)

    def _chunked(self, hidden, weight, offsets, bias, ids) -> torch.Tensor:
        count = max(1, -(-len(ids) * len(weight) // self.max_logits))
        if count == 1:
            return self.linear_nats(hidden, weight, bias, offsets, ids)
        parts = zip(hidden.tensor_split(count), ids.tensor_split(count), strict=True)
        options = {"use_reentrant": False, "preserve_rng_state": False}
        return torch.cat([checkpoint(self.linear_nats, h, weight, bias, offsets, i, **options) for h, i in parts])


@contextmanager
def _replaced_head(model: Model, forward: Callable) -> Iterator[None]:
    head = model.get_output_embeddings()
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device; a GPU copies it asynchronously."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
