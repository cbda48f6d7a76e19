"""A training step of a transformers model, on one process or several."""

import math

import numpy as np
import torch
from peft import PeftModel
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from transformers import PreTrainedModel

from titlesmith.train import architectures
from titlesmith.train import distributed as processes
from titlesmith.train.loop import ADAM_EPSILON, BETAS, CLIP
from titlesmith.train.packing import Batch
from titlesmith.train.sampled_softmax import SHIFT_LR_SCALE
from titlesmith.train.target_losses import SampledHead, TargetLosses, linear_nats, to_device


class Step:
    """One step of AdamW (Loshchilov and Hutter 2019) on the parameters that require gradients.

    ``settings`` are those of notebook 03; ``compiles`` says whether blocks and loss are compiled. ``used`` are the ids
    of a sampled softmax, and ``sampled`` its embeddings, which are in the model during a step; None for all ids.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        losses: TargetLosses,
        settings: dict,
        bf16: bool,
        used: np.ndarray | None,
        compiles: bool,
    ):
        self._model, self._losses, self._bf16 = model, losses, bf16
        self._calls, self._seed = settings["accumulate"], settings["seed"]
        self.used = None if used is None else torch.from_numpy(used)
        self.sampled = None if used is None else SampledHead(model, used)
        if self.sampled:
            self.sampled.train()
        self._parallel = processes.wrap(model, settings["sharding"])
        if compiles:
            architectures.compile_blocks(model)
            losses.linear_nats = torch.compile(linear_nats)

        # Weight decay applies to matrices only; the norm to clip does not count the shift of a sampled softmax
        trained = [p for p in model.parameters() if p.requires_grad]
        shift = [p for p in trained if self.sampled and p is self.sampled.shift]
        self._trained = [p for p in trained if not (self.sampled and p is self.sampled.shift)]
        matrices, vectors = ([p for p in self._trained if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
        kinds = ((matrices, settings["weight_decay"], 1.0), (vectors, 0.0, 1.0), (shift, 0.0, SHIFT_LR_SCALE))
        groups = [{"params": p, "weight_decay": decay, "lr_scale": scale} for p, decay, scale in kinds if p]
        self._optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=ADAM_EPSILON, fused=True)

    def run(self, batch: Batch, rate: float, number: int) -> tuple[float, float]:
        """See `titlesmith.train.loop.Engine.train_step`; ``number`` counts the steps before this one."""
        model, optimizer, sampled = self._model.train(), self._optimizer, self.sampled
        size, rank = processes.size(), processes.rank()
        total = float(batch.weights.sum()) / size  # gradients are averaged over processes
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        if sampled:  # the same sample for all calls of a step, so that they add up to one large batch
            sampled.train()
            others = to_device(sampled.sample([self._seed, number]), model.device).long()

        # Forward and backward, call by call; dropout is a function of seed, step, call and rank
        nats, head = torch.zeros((), device=model.device), None
        for call, part in enumerate(batch.split(self._calls)):
            part = part.split(size)[rank]
            targets = np.flatnonzero(part.weights)
            ids, labels, weights = part.ids, part.labels.reshape(-1)[targets], part.weights.reshape(-1)[targets]
            if sampled:
                ids, labels = sampled.rows(ids), sampled.rows(labels)
            seed = np.random.SeedSequence([self._seed, number, call, rank])
            torch.manual_seed(int(seed.generate_state(1)[0]))
            with processes.averaging(self._parallel, call == self._calls - 1):
                with torch.autocast(model.device.type, torch.bfloat16, enabled=self._bf16):
                    if sampled:
                        head = sampled.head(others)
                    losses = self._losses(model, ids, targets, labels, part.position_ids, head, self._parallel)
                    loss = (losses * to_device(weights, model.device)).sum() / total
                loss.backward()
            nats += loss.detach()

        # Clip, and update if loss and gradient are finite
        nats = processes.total(nats) / size
        norm = torch.nn.utils.clip_grad_norm_(self._trained, CLIP)
        norm = norm.full_tensor() if processes.is_sharded(model) else norm
        loss, norm = torch.stack([nats, norm.float()]).tolist()  # the only wait for a GPU in a step
        if math.isfinite(loss) and math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return loss, norm

    def state(self) -> dict:
        """The complete state of the optimizer, to save."""
        if self.sampled:
            self.sampled.train()
        return get_optimizer_state_dict(self._model, self._optimizer, options=processes.COMPLETE)

    def load_state(self, state: dict) -> None:
        """Reads what `state` returned."""
        set_optimizer_state_dict(self._model, self._optimizer, state, options=processes.COMPLETE)
