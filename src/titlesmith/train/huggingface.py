"""Any causal model of the transformers library, in PyTorch, trained completely or through low-rank adapters (peft).

The library's Trainer is not used: the loop of `titlesmith.train.loop` is the same for all engines, with one history,
stop rules, packed rows and exact resume.

Checkpoints are folders that transformers (peft for adapters) reads, with the vocabulary and ``titlesmith.pt``: the
step, the model that an adapter belongs to, and the optimizer's state where training resumes. Weights are read from
safetensors, or from pickles of tensors alone; no code of a model's folder is run.
"""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from peft import PeftModel, load_peft_weights
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedModel

from titlesmith import models
from titlesmith.corpus.pretrained import as_pretrained
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.models.weights import STATE, read, read_state, with_adapter
from titlesmith.runs import merging, swapping
from titlesmith.train import architectures
from titlesmith.train import distributed as processes
from titlesmith.train.loop import Engine, choose_precision
from titlesmith.train.packing import Batch

if TYPE_CHECKING:
    from titlesmith.corpus import Corpus

PROBE_TOKENS = 256  # tokens of the row that a model's attention is probed with
BETAS, ADAM_EPSILON, CLIP = (0.9, 0.999), 1e-8, 1.0  # of AdamW, and the maximum norm of a gradient
ERRORS = (RuntimeError, SafetensorError)  # of a write that fails

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
if torch.cuda.is_available():
    torch.set_float32_matmul_precision("high")  # TF32, as in TensorFlow


class HuggingFaceEngine(Engine):
    """A causal language model of the transformers library.

    Parameters
    ----------
    model
        The model, or one with adapters.
    tokenizer
        Its vocabulary.
    base
        The name (``hf:NAME``) of the model that adapters belong to.
    quantize
        The type of the weights of ``base`` in memory: ``none`` for their stored type, or ``8bit``, ``4bit``.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: Tokenizer, base: str = "", quantize: str = "none"
    ):
        self.tokenizer, self._base, self._quantize = tokenizer, base, quantize
        self.model = model if quantize != "none" else model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.model.generation_config = GenerationConfig()  # the publisher's settings would apply otherwise
        self._optimizer: torch.optim.Optimizer | None = None
        self._moments: dict | None = None  # the optimizer's state that a checkpoint had
        self._targets: torch.Tensor | None = None
        config = model.config.get_text_config()
        if self.model.device.type == "cuda":
            self.max_logits = 8 * Engine.max_logits
        self.context = getattr(config, "max_position_embeddings", None) or 2048
        table = model.get_input_embeddings().num_embeddings
        if table < len(tokenizer):
            raise RequestError(
                f"model: {base or 'the model'} has {table} embeddings for a vocabulary of {len(tokenizer)} tokens"
            )
        architectures.fuse_gelu(model)
        model.get_output_embeddings().register_forward_pre_hook(self._select_targets)

    @classmethod
    def scratch(cls, tokenizer: Tokenizer, hyperparameters: dict, seed: int) -> "HuggingFaceEngine":
        """A small model with random weights (`architectures.scratch`)."""
        return cls(architectures.scratch(tokenizer, hyperparameters, seed), tokenizer)

    @classmethod
    def open(cls, name: str, quantize: str = "none") -> "HuggingFaceEngine":
        """A published model, ``hf:NAME-OR-PATH`` (RequestError if files are missing)."""
        path = models.folder(name)
        return cls(read(path, quantize), Tokenizer.load(path), name, quantize)

    @classmethod
    def load(cls, path: Path, resume: bool = True) -> "HuggingFaceEngine":
        """See `Engine.load`."""
        state = read_state(path / STATE)
        if (path / "adapter_config.json").exists():
            base = read(models.folder(state["base"]), state["quantize"])
            model = with_adapter(base, path, resume)
        else:
            model = read(path, "none")
        engine = cls(model, Tokenizer.load(path), state["base"], state["quantize"])
        if resume:
            engine.step, engine._moments = state["step"], state.get("optimizer")
        return engine

    def device(self, settings: dict) -> str:
        """See `Engine.device`."""
        device, gpu = models.cpu_name(), torch.cuda.is_available()
        if gpu:
            card = torch.cuda.get_device_properties(0)
            device = f"GPU: {card.name}, {card.total_memory / 2**30:.0f} GiB"
        if settings["processes"] > 1:
            device += f", {settings['processes']} processes" + " with a GPU each" * gpu
            device += ", weights sharded" * (settings["sharding"] == "full")
        trained = f"LoRA of rank {settings['lora_rank']}, " if settings["lora_rank"] else ""
        return f"{device}, PyTorch, {trained}matrix products in {precision(settings)}"

    def prepare(self, corpus: "Corpus", settings: dict) -> None:
        """See `Engine.prepare`."""
        models.check_training(settings)
        self._bf16 = precision(settings) == "bfloat16"
        hyperparameters = models.hyperparameters(settings["model"], len(self.tokenizer))
        models.check_memory(hyperparameters, settings, self._bf16, gpu=torch.cuda.is_available())

        # The parameters that train: adapters, the blocks, or all
        architectures.set_dropout(self.model, settings["dropout"])
        if settings["lora_rank"] and not isinstance(self.model, PeftModel):
            self.model = architectures.adapted(self.model, settings, settings["seed"])
            self.model.peft_config["default"].base_model_name_or_path = self._base.removeprefix("hf:")
        elif not settings["lora_rank"]:
            self.model.float()
            if settings["layers"] == "transformer":
                self.model.requires_grad_(False)
                architectures.blocks(self.model).requires_grad_(True)
        model = self.model
        if settings["checkpointing"]:
            model.gradient_checkpointing_enable({"use_reentrant": False})

        # Several processes; compiled functions where they pay
        self._parallel, self._entropy = processes.wrap(model, settings["sharding"]), cross_entropies
        if architectures.can_compile() and self._is_worth_compiling(settings):
            architectures.compile_blocks(model)
            self._entropy = torch.compile(cross_entropies)

        # The optimizer; weight decay applies to matrices only
        self._trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self._trained if (p.ndim > 1) == is_matrix], "weight_decay": decay}
            for is_matrix, decay in ((True, settings["weight_decay"]), (False, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self._optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=ADAM_EPSILON, fused=True)
        if self._moments:
            processes.load_optimizer_state(model, self._optimizer, self._moments)
            self._moments = None
        self._calls, self._seed = settings["accumulate"], settings["seed"]
        saved = self._trained if settings["lora_rank"] else list(model.parameters())
        self.checkpoint_bytes = 8 * sum(p.numel() for p in self._trained) + sum(p.numel() * p.itemsize for p in saved)

    def _is_worth_compiling(self, settings: dict) -> bool:
        """Whether compiling saves more time than it takes, and works with the other settings."""
        tokens = settings["steps"] * settings["batch_size"] * settings["accumulate"] * settings["block_size"]
        plain = settings["processes"] == 1 and self._quantize == "none" and not settings["checkpointing"]
        return plain and 6 * tokens * self.model.num_parameters() > architectures.MIN_OPERATIONS

    def _select_targets(self, head: torch.nn.Module, inputs: tuple) -> tuple | None:
        """Passes only the tokens that predict something to the model's head, (1, targets, width)."""
        return None if self._targets is None else (inputs[0].flatten(0, 1)[self._targets][None],)

    def _nats(
        self, ids: np.ndarray, targets: np.ndarray, labels: np.ndarray, position_ids: np.ndarray | None = None
    ) -> torch.Tensor:
        """Losses of predictions, shape (targets,).

        Parameters
        ----------
        ids
            Shape (rows, block).
        targets, labels
            Tokens of ``ids``, counted through the rows, and the id that each is to predict.
        position_ids
            Shape (rows, block). Where they restart, transformers masks attention; FlashAttention reads this in one row
            only, so that all rows are concatenated for it.
        """
        device, options = self.model.device, {}
        if position_ids is not None and (position_ids[:, 1:] == 0).any():
            if "flash" in (self.model.config.get_text_config()._attn_implementation or ""):
                ids, position_ids = ids.reshape(1, -1), position_ids.reshape(1, -1)
            options = {"position_ids": to_device(position_ids, device).long()}
        rows, self._targets, labels = (to_device(array, device) for array in (ids, targets, labels))
        try:
            model, entropy = (self._parallel, self._entropy) if self.model.training else (self.model, cross_entropies)
            return entropy(model(input_ids=rows.long(), use_cache=False, **options).logits[0], labels.long())
        finally:
            self._targets = None

    def _batch_nats(self, batch: Batch) -> torch.Tensor:
        """Nats of a batch's predictions times their weights, summed."""
        targets = np.flatnonzero(batch.weights)
        labels, weights = batch.labels.reshape(-1)[targets], batch.weights.reshape(-1)[targets]
        nats = self._nats(batch.ids, targets, labels, batch.position_ids)
        return (nats * to_device(weights, self.model.device)).sum()

    def masks_documents(self, settings: dict) -> bool:
        """See `Engine.masks_documents`; not every model separates the documents of a row.

        Raises
        ------
        RequestError
            ``attention`` is ``document``, and the model does not.
        """
        wanted = super().masks_documents(settings)
        can = not wanted or self._separates_documents(settings["block_size"])
        if not can and settings["attention"] == "document":
            raise RequestError(
                "finetune.attention: document: this model does not separate the documents of a row by their position "
                "ids, or attends to fewer tokens than a row has: set it to row"
            )
        return wanted and can

    @torch.compiler.set_stance("force_eager")
    def _separates_documents(self, block: int) -> bool:
        """Whether a document has the same losses at the beginning of a row and after another document.

        transformers masks documents whose ``position_ids`` restart, in most architectures. This tries two random
        documents in both orders.
        """
        config, half = self.model.config.get_text_config(), min(block, PROBE_TOKENS) // 2
        windows = [getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size")]
        if any(isinstance(window, int) and 0 < window < block for window in windows):
            return False
        documents = np.random.default_rng(1).integers(0, len(self.tokenizer), (2, half), np.int32)
        ids = np.stack([documents.reshape(-1), documents[::-1].reshape(-1)])
        positions = np.tile(np.arange(half, dtype=np.int32), (2, 2))
        self.model.eval()
        try:
            with torch.no_grad():
                packed, one = (
                    self._nats(ids, np.arange(ids.size), ids.reshape(-1), given).reshape(2, 2, half)
                    for given in (positions, None)
                )
        except Exception:  # whatever an architecture raises that has no position_ids
            return False
        alone = one[:, 0]
        changed = (packed - torch.stack([alone, alone.flip(0)], 1)).abs().mean()
        return bool(changed < 0.05 * (one[:, 1] - alone.flip(0)).abs().mean())  # rounding changes less

    def train_step(self, batch: Batch, rate: float) -> tuple[float, float]:
        """See `Engine.train_step`; each process computes its share of the rows."""
        model, optimizer, size, rank = self.model.train(), self._optimizer, processes.size(), processes.rank()
        total = float(batch.weights.sum()) / size  # gradients are averaged over processes
        for group in optimizer.param_groups:
            group["lr"] = rate

        # Forward and backward, call by call; dropout is a function of seed, step, call and rank
        nats = torch.zeros((), device=model.device)
        for call, part in enumerate(batch.split(self._calls)):
            seed = np.random.SeedSequence([self._seed, self.step, call, rank])
            torch.manual_seed(int(seed.generate_state(1)[0]))
            with processes.averaging(self._parallel, call == self._calls - 1):
                with torch.autocast(model.device.type, torch.bfloat16, enabled=self._bf16):
                    loss = self._batch_nats(part.split(size)[rank]) / total
                loss.backward()
            nats += loss.detach()

        # Clip, and update if loss and gradient are finite
        nats = processes.mean(nats)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, CLIP)
        norm = norm.full_tensor() if processes.is_sharded(model) else norm
        loss, norm = torch.stack([nats, norm.float()]).tolist()  # the only wait for a GPU in a step
        if math.isfinite(loss) and math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return loss, norm

    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """See `Engine.losses`; in a training of several processes all call it, each computes its share."""
        mine = processes.share(len(ids))
        rows = mine if len(mine) else [0]  # with sharded weights all processes compute or none can
        nats = np.zeros(len(ids), np.float32)
        nats[mine] = self._row_losses(ids[rows], learned[rows])[: len(mine)]
        return processes.total(nats)

    @torch.compiler.set_stance("force_eager")
    def _row_losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        targets = np.flatnonzero(learned)
        self.model.eval()
        with torch.no_grad():  # in inference mode, sharded weights could not be trained afterwards
            nats = self._nats(ids[:, :-1], targets, ids[:, 1:].reshape(-1)[targets]).cpu().numpy()
        result = np.zeros(learned.size, np.float32)
        result[targets] = nats
        return (result.reshape(learned.shape) * learned).sum(axis=1)

    def save_checkpoint(self, path: Path) -> None:
        """See `Engine.save_checkpoint`; of several processes rank 0 writes, and the others wait for it."""
        weights = self._complete_weights()
        optimizer = processes.optimizer_state(self.model, self._optimizer)
        if processes.rank() == 0:
            with self.reporting_failure(path, self.checkpoint_bytes, *ERRORS), swapping(path) as folder:
                self._write(folder, weights, {"optimizer": optimizer})
        processes.barrier()

    def save_weights(self, path: Path) -> None:
        """See `Engine.save_weights`."""
        weights = self._complete_weights()
        if processes.rank() == 0:
            # `path` may contain other checkpoints, which stay
            with self.reporting_failure(path, self.checkpoint_bytes, *ERRORS), merging(path, STATE) as folder:
                self._write(folder, weights, {})
        processes.barrier()

    def _complete_weights(self) -> dict:
        """Weights by name if they are sharded; else empty, and the model writes its own."""
        return {"state_dict": processes.model_state(self.model)} if processes.is_sharded(self.model) else {}

    def _write(self, folder: Path, weights: dict, more: dict) -> None:
        as_pretrained(self.tokenizer).save(folder)
        kwargs = {"save_embedding_layers": False} if isinstance(self.model, PeftModel) else {}
        self.model.save_pretrained(folder, **kwargs, **weights)
        (folder / "README.md").unlink(missing_ok=True)  # a template of peft's
        state = {"step": self.step, "base": self._base, "quantize": self._quantize}
        torch.save(state | more, folder / STATE)

    def load_weights(self, path: Path) -> None:
        """See `Engine.load_weights`."""
        if isinstance(self.model, PeftModel):
            # peft's files do not have the adapter's name
            weights = load_peft_weights(path, device="cpu")
            weights = {re.sub(r"\.(lora_[AB])\.", r".\1.default.", name): value for name, value in weights.items()}
        else:
            weights = read(path, "none").state_dict()
        processes.load_model_state(self.model, weights)


def cross_entropies(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Nats of each id (targets,) under logits (targets, vocabulary) of any type."""
    return cross_entropy(logits.float(), ids, reduction="none")


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device; a GPU copies it asynchronously."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def precision(settings: dict) -> str:
    """The type of matrix products of a training (`choose_precision`)."""
    fast = torch.cuda.is_bf16_supported(False) if torch.cuda.is_available() else models.has_fast_bfloat16()
    return choose_precision(settings, fast)
