"""Any causal model of the transformers library, in PyTorch, whole or through low-rank adapters (peft).

The library's Trainer is not used: the training loop of `titlesmith.train.loop` is the same for all engines, so that
all have one history, and the same stop rules, probe, packed rows, schedule, exact resuming and suite of tests.

Checkpoints are folders that transformers (peft, where an adapter was trained) reads as they are, with the vocabulary
and one file more, ``titlesmith.pt``: the step, the model that an adapter belongs to, and where training goes on from
there the optimizer's state. Weights are read from safetensors, or from pickles of tensors alone; no code of a
model's folder is run.
"""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
from titlesmith.errors import RequestError, RunError
from titlesmith.models.weights import STATE, read, read_state, with_adapter
from titlesmith.runs import merging, swapping
from titlesmith.train import architectures
from titlesmith.train import distributed as processes
from titlesmith.train.loop import Engine
from titlesmith.train.packing import Batch

if TYPE_CHECKING:
    from titlesmith.corpus import Corpus

PROBE_TOKENS = 256  # tokens of the row that a model's attention is probed with
BETAS, ADAM_EPSILON, CLIP = (0.9, 0.999), 1e-8, 1.0  # of AdamW, and the largest norm of a gradient

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
if torch.cuda.is_available():
    torch.set_float32_matmul_precision("high")  # TF32, as TensorFlow has it on GPUs


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
        How the weights of ``base`` are held: ``none`` for their stored type, or ``8bit``, ``4bit``.
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
            self.logits = 8 * Engine.logits
        self.context = getattr(config, "max_position_embeddings", None) or 2048
        table = model.get_input_embeddings().num_embeddings
        if table < len(tokenizer):
            raise RequestError(f"model: {base or 'it'} has {table} embeddings, its vocabulary {len(tokenizer)} tokens")
        architectures.fuse_gelu(model)
        model.get_output_embeddings().register_forward_pre_hook(self._select_targets)

    @classmethod
    def scratch(cls, tokenizer: Tokenizer, hyperparameters: dict, seed: int) -> "HuggingFaceEngine":
        """A small model with random weights (`architectures.scratch`)."""
        return cls(architectures.scratch(tokenizer, hyperparameters, seed), tokenizer)

    @classmethod
    def open(cls, name: str, quantize: str = "none", adapter: Path | None = None) -> "HuggingFaceEngine":
        """A published model, with a published adapter in it where one is given.

        Parameters
        ----------
        name
            ``hf:NAME-OR-PATH``.
        quantize
            As for the class.
        adapter
            A folder in peft's layout.

        Raises
        ------
        RequestError
            Files are missing, or the adapter is not of this model.
        """
        path = models.folder(name)
        model = with_adapter(read(path, quantize), adapter) if adapter else read(path, quantize)
        return cls(model, Tokenizer.load(path), name, quantize)

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
        where = models.cpu_name()
        if torch.cuda.is_available():
            card = torch.cuda.get_device_properties(0)
            where = f"GPU: {card.name}, {card.total_memory / 2**30:.0f} GiB"
        trained = f"LoRA of rank {settings['lora_rank']}, " if settings["lora_rank"] else ""
        if (count := settings["processes"]) > 1:
            each = " with a GPU each" if torch.cuda.is_available() else ""
            where += f", {count} processes{each}" + ", the weights spread over them" * (settings["sharding"] == "full")
        return f"{where}, PyTorch, {trained}matrix products in {precision(settings)}"

    def prepare(self, corpus: "Corpus", settings: dict) -> None:
        """See `Engine.prepare`."""
        models.check_training(settings)
        models.check_memory(
            models.hyperparameters(settings["model"], len(self.tokenizer)),
            settings,
            precision(settings) == "bfloat16",
            gpu=torch.cuda.is_available(),
        )
        model = self.model
        architectures.set_dropout(model, settings["dropout"])
        if not isinstance(model, PeftModel):
            if settings["lora_rank"]:
                model = self.model = architectures.adapted(model, settings, settings["seed"])
                model.peft_config["default"].base_model_name_or_path = self._base.removeprefix("hf:")
            else:
                model.float()
                if settings["layers"] == "transformer":
                    model.requires_grad_(False)
                    architectures.blocks(model).requires_grad_(True)
        if settings["checkpointing"]:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self._parallel, self._entropy = processes.wrap(model, settings["sharding"]), cross_entropies
        if architectures.can_compile() and self._compiles(settings):
            architectures.compile_blocks(model)
            self._entropy = torch.compile(cross_entropies)
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if (p.ndim > 1) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, settings["weight_decay"]), (False, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self._optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=ADAM_EPSILON, fused=True)
        if self._moments:
            processes.load_optimizer_state(model, self._optimizer, self._moments)
            self._moments = None
        self._trained, self._calls, self._seed = trained, settings["accumulate"], settings["seed"]
        self._bf16 = precision(settings) == "bfloat16"
        kept = trained if settings["lora_rank"] else list(model.parameters())
        self.checkpoint_bytes = 8 * sum(p.numel() for p in trained) + sum(p.numel() * p.itemsize for p in kept)

    def _compiles(self, settings: dict) -> bool:
        """Whether compiling pays, and works with the other settings."""
        tokens = settings["steps"] * settings["batch_size"] * settings["accumulate"] * settings["block_size"]
        alone = settings["processes"] == 1 and self._quantize == "none" and not settings["checkpointing"]
        return alone and 6 * tokens * self.model.num_parameters() > architectures.WORTH

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
            options = {"position_ids": sent(position_ids, device).long()}
        rows, self._targets, labels = (sent(array, device) for array in (ids, targets, labels))
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
        return (nats * sent(weights, self.model.device)).sum()

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

        transformers masks documents whose ``position_ids`` restart, in most architectures. Two random documents are
        tried in both orders.
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
        places = np.flatnonzero(learned)
        self.model.eval()
        with torch.no_grad():  # in inference mode, weights that are spread could not be trained afterwards
            nats = self._nats(ids[:, :-1], places, ids[:, 1:].reshape(-1)[places]).cpu().numpy()
        result = np.zeros(learned.size, np.float32)
        result[places] = nats
        return (result.reshape(learned.shape) * learned).sum(axis=1)

    def save_checkpoint(self, path: Path) -> None:
        """See `Engine.save_checkpoint`; of several processes rank 0 writes, and the others wait for it."""
        weights = self._complete_weights()
        optimizer = processes.optimizer_state(self.model, self._optimizer)
        if processes.rank() == 0:
            with self._as_run_error(path), swapping(path) as folder:
                self._write(folder, weights, {"optimizer": optimizer})
        processes.barrier()

    def save_weights(self, path: Path) -> None:
        """See `Engine.save_weights`."""
        weights = self._complete_weights()
        if processes.rank() == 0:
            # `path` may contain other checkpoints, which stay
            with self._as_run_error(path), merging(path, STATE) as folder:
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

    @contextmanager
    def _as_run_error(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, RunError) as error:
            raise RunError(
                f"{path}: the checkpoint of step {self.step} was not written, the one before it is kept. "
                f"{shutil.disk_usage(path.parent).free / 1e9:.1f} GB are free; it takes "
                f"{self.checkpoint_bytes / 1e9:.2f} GB. Free some room and run the same command again: training goes "
                f"on from there. {str(error).splitlines()[0]}"
            ) from None

    def load_weights(self, path: Path) -> None:
        """See `Engine.load_weights`."""
        if isinstance(self.model, PeftModel):
            # peft's files leave out the adapter's name
            weights = load_peft_weights(path, device="cpu")
            weights = {re.sub(r"\.(lora_[AB])\.", r".\1.default.", name): value for name, value in weights.items()}
        else:
            weights = read(path, "none").state_dict()
        processes.load_model_state(self.model, weights)


def cross_entropies(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Nats of each id (places,) under logits (places, vocabulary) of any type."""
    return cross_entropy(logits.float(), ids, reduction="none")


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device; a GPU copies it asynchronously."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def precision(settings: dict) -> str:
    """The type of matrix products: as set, or (auto) bfloat16 where the GPU or the processor multiplies it."""
    if settings["precision"] != "auto":
        return settings["precision"]
    fast = torch.cuda.is_bf16_supported(False) if torch.cuda.is_available() else models.has_fast_bfloat16()
    return "bfloat16" if fast else "float32"
