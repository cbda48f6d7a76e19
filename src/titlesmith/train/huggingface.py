"""Any causal model of the transformers library, in PyTorch, whole or through low-rank adapters (peft).

The library's Trainer is not used: the training loop of `titlesmith.train.loop` is the same for all engines, so that
all have one history, and the same stop rules, probe, packed rows, schedule, exact resuming and suite of tests.

Checkpoints are folders that transformers (peft, where an adapter was trained) reads as they are, with the vocabulary
and one file more, ``titlesmith.pt``: the step, the model that an adapter belongs to, and where training goes on from
there the optimizer's state. Weights are read from safetensors, or from pickles of tensors alone; no code of a
model's folder is run.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedModel

from titlesmith import models
from titlesmith.corpus.pretrained import published
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError, RunError
from titlesmith.models.weights import STATE, read, read_state, with_adapter
from titlesmith.runs import Run, merging, swapping
from titlesmith.train import architectures
from titlesmith.train import distributed as processes
from titlesmith.train.loop import Engine, Sample
from titlesmith.train.packing import Batch

if TYPE_CHECKING:
    from titlesmith.corpus import Corpus

LONGEST = 256  # places of a row on which a model's attention is tried
BETAS, TINY, CLIP = (0.9, 0.999), 1e-8, 1.0  # of AdamW, and the largest norm of a gradient

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
        The name (``hf:NAME``) of the model that adapters stand in, or are to stand in.
    quantize
        How the weights of ``base`` are held: ``none`` for as they are stored, or ``8bit``, ``4bit``.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: Tokenizer, base: str = "", quantize: str = "none"
    ):
        self.tokenizer, self._base, self._quantize = tokenizer, base, quantize
        self.model = model if quantize != "none" else model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.model.generation_config = GenerationConfig()  # what a publisher prefers is not what was asked for
        self._optimizer: torch.optim.Optimizer | None = None
        self._moments: dict | None = None  # the optimizer's state that a checkpoint had
        self._places: torch.Tensor | None = None
        self._group = processes.Group()
        config = model.config.get_text_config()
        if self.model.device.type == "cuda":
            self.logits = 8 * Engine.logits
        self.context = getattr(config, "max_position_embeddings", None) or 2048
        table = model.get_input_embeddings().num_embeddings
        if table < len(tokenizer):
            raise RequestError(f"model: {base or 'it'} has {table} embeddings, its vocabulary {len(tokenizer)} tokens")
        architectures.fuse_gelu(model)
        model.get_output_embeddings().register_forward_pre_hook(self._narrow)

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
        if (count := settings.get("processes", 1)) > 1:
            each = " with a GPU each" if torch.cuda.is_available() else ""
            where += f", {count} processes{each}" + ", the weights spread over them" * (settings["sharding"] == "full")
        return f"{where}, PyTorch, {trained}matrix products in {precision(settings)}"

    @contextmanager
    def training(self, run: Run, settings: dict) -> Iterator[None]:
        """See `Engine.training`; ``processes`` train together, of which this one has the monitor."""
        with processes.training(run, settings) as self._group:
            yield
        self._leave(run / "model")

    def work(self, corpus: "Corpus", settings: dict, group: processes.Group) -> None:
        """Takes part in the training of another process, of the same model, until that ends it."""
        from titlesmith.generate import Probe

        self._group, self._probe = group, Probe(corpus, settings)
        self.prepare(corpus, settings)
        group.follow(self)

    def sample(self, sample: Sample) -> tuple[list[str], float]:
        """See `Engine.sample`; all processes of a sharded model compute the texts."""
        self._probe = sample
        return self._group.call(self._sampled) if self._group.sharded else self._sampled()

    def _sampled(self) -> tuple[list[str], float]:
        return self._probe(self)

    def _leave(self, path: Path) -> None:
        """Goes on alone, where the weights were spread with those that lie in a folder."""
        self._group.close()
        if self._group.sharded:
            self.__init__(type(self).load(path, resume=False).model, self.tokenizer, self._base, self._quantize)
        self._group = processes.Group()

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
        self._parallel, self._entropy = self._group.wrap(model), entropy
        if architectures.can_compile() and self._compiles(settings):
            architectures.compile_blocks(model)
            self._entropy = torch.compile(entropy)
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if (p.ndim > 1) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, settings["weight_decay"]), (False, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self._optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=TINY, fused=True)
        if self._moments:
            self._optimizer.load_state_dict(self._moments)
            self._group.spread(self._optimizer)
            self._moments = None
        self._trained, self._calls, self._seed = trained, settings["accumulate"], settings["seed"]
        self._bf16 = precision(settings) == "bfloat16"
        kept = trained if settings["lora_rank"] else list(model.parameters())
        self.checkpoint_bytes = 8 * sum(p.numel() for p in trained) + sum(p.numel() * p.itemsize for p in kept)

    def _compiles(self, settings: dict) -> bool:
        """Whether compiling pays, and is known to go together with everything else that was asked for."""
        tokens = settings["steps"] * settings["batch_size"] * settings["accumulate"] * settings["block_size"]
        alone = settings.get("processes", 1) == 1 and self._quantize == "none" and not settings["checkpointing"]
        return alone and 6 * tokens * self.model.num_parameters() > architectures.WORTH

    def _narrow(self, head: torch.nn.Module, given: tuple) -> tuple | None:
        """Gives the head of the vocabulary the places alone whose predictions are counted, (1, places, width)."""
        return None if self._places is None else (given[0].flatten(0, 1)[self._places][None],)

    def _nats(self, ids: np.ndarray, places: np.ndarray, labels: np.ndarray, **how: torch.Tensor) -> torch.Tensor:
        """Losses of the predictions at ``places`` of rows of ids, counted through the rows, shape (places,)."""
        rows, self._places, labels = (sent(array, self.model.device) for array in (ids, places, labels))
        try:
            model, lost = (self._parallel, self._entropy) if self.model.training else (self.model, entropy)
            return lost(model(input_ids=rows.long(), use_cache=False, **how).logits[0], labels.long())
        finally:
            self._places = None

    def _batch_nats(self, batch: Batch) -> torch.Tensor:
        """Nats of a batch's predictions times their weights, summed."""
        rows, which = np.nonzero(batch.weights)
        labels, weights = batch.labels[rows, which], sent(batch.weights[rows, which], self.model.device)
        places = batch.places[rows, which] + rows * batch.ids.shape[1]
        if (batch.until == batch.until.shape[1]).all():
            return (self._nats(batch.ids, places, labels) * weights).sum()
        paths = self._paths(batch.positions, batch.until)
        return (self._nats(batch.ids, places, labels, **paths) * weights).sum()

    def _paths(self, positions: np.ndarray, until: np.ndarray) -> dict[str, torch.Tensor]:
        """What tells the model which places each place of a `Batch` reads."""
        positions, until = (sent(array, self.model.device) for array in (positions, until))
        place = torch.arange(until.shape[1], device=until.device)
        mask = (place <= place[:, None]) & (place[:, None] < until[:, None, None, :])
        if self.model.config.get_text_config()._attn_implementation == "eager":  # which adds it to the scores
            mask = torch.where(mask, 0.0, -torch.inf)
        return {"position_ids": positions.long(), "attention_mask": mask}

    def apart(self, settings: dict) -> bool:
        """See `Engine.apart`; not every model can be told where a document begins.

        Raises
        ------
        RequestError
            It was asked for, and the model cannot.
        """
        can = not super().apart(settings) or self._reads_paths(settings["block_size"])
        if not can and settings["attention"] == "document":
            raise RequestError(
                "finetune.attention: document: this model cannot be told where a document begins, because it heeds no "
                "positions and mask of a row's own, or looks back fewer tokens than a row has: set it to row"
            )
        return can and super().apart(settings)

    @torch.compiler.set_stance("force_eager")
    def _reads_paths(self, block: int) -> bool:
        """Whether a document has the same losses alone and behind another one that it is told not to read.

        Both documents are tried in both places, behind the end of text that they share.
        """
        config, half = self.model.config.get_text_config(), (min(block, LONGEST) - 1) // 2
        back = [getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size")]
        if any(isinstance(window, int) and 0 < window < block for window in back):
            return False
        one, other = np.random.default_rng(1).integers(0, len(self.tokenizer), (2, half), np.int32)
        first, both = [self.tokenizer.eos_id], slice(1, half + 1)
        ids = np.array([[*first, *one, *other], [*first, *other, *one]], np.int32)
        place = np.arange(ids.shape[1], dtype=np.int32)
        positions, until = place - half * (place > half), np.where((place > 0) & (place <= half), half + 1, len(place))
        paths = (np.tile(array, (2, 1)).astype(np.int32) for array in (positions, until))
        self.model.eval()
        try:
            with torch.no_grad():
                asked = (ids, np.arange(ids.size), ids.flatten())  # any labels would do
                told, not_told = (self._nats(*asked, **how).reshape(ids.shape) for how in (self._paths(*paths), {}))
        except Exception:  # whatever a model makes of arguments that it does not take
            return False
        alone, second = not_told[:, both], slice(half + 1, None)
        differences = torch.stack([told[:, both] - alone, told[:, second] - alone.flip(0)]).abs().mean()
        return bool(differences < 0.05 * (not_told[:, second] - alone.flip(0)).abs().mean())  # rounding is below

    def train_step(self, batch: Batch, rate: float) -> tuple[float, float]:
        """See `Engine.train_step`."""
        return self._group.call(self._train, batch, rate)

    def _train(self, batch: Batch, rate: float) -> tuple[float, float]:
        model, optimizer, group = self.model.train(), self._optimizer, self._group
        total = float(batch.weights.sum()) / group.size  # gradients are a mean over processes
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        nats = torch.zeros((), device=model.device)
        for call, part in enumerate(batch.split(self._calls)):
            seed = [self._seed, self.step, call, group.rank]
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            with group.averaging(call == self._calls - 1):
                with torch.autocast(model.device.type, torch.bfloat16, enabled=self._bf16):
                    loss = self._batch_nats(part.split(group.size)[group.rank]) / total
                loss.backward()
            nats += loss.detach()
        nats = group.mean(nats)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, CLIP)
        if group.sharded:
            norm = norm.full_tensor()
        loss, norm = torch.stack([nats, norm.float()]).tolist()  # the one time that a step waits for a GPU
        if math.isfinite(loss) and math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return loss, norm

    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """See `Engine.losses`."""
        return self._group.call(self._losses, ids, learned)

    def _losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        mine = self._group.share(np.arange(len(ids)))
        rows = mine if len(mine) else [0]  # with weights that are spread, all processes compute or none can
        nats = np.zeros(len(ids), np.float32)
        nats[mine] = self._row_losses(ids[rows], learned[rows])[: len(mine)]
        return self._group.sum(nats)

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
        """See `Engine.save_checkpoint`."""
        state = self._group.call(self._state, True)
        with self._told(path), swapping(path) as folder:
            self._write(folder, *state)

    def save_weights(self, path: Path) -> None:
        """See `Engine.save_weights`."""
        state = self._group.call(self._state, False)
        with self._told(path), merging(path, STATE) as folder:  # `path` may contain other checkpoints, which stay
            self._write(folder, *state)

    def _state(self, resume: bool) -> tuple[dict, dict]:
        """What to write: weights by name, where they are spread over processes, and what resuming needs."""
        more = {"optimizer": self._optimizer.state_dict()} if resume else {}
        if not self._group.sharded:
            return {}, more
        weights = self.model.state_dict(keep_vars=True)
        if isinstance(self.model, PeftModel):
            weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
        return {"state_dict": self._group.whole(weights)}, self._group.whole(more)

    def _write(self, folder: Path, weights: dict, more: dict) -> None:
        published(self.tokenizer).save(folder)
        kwargs = {"save_embedding_layers": False} if isinstance(self.model, PeftModel) else {}
        self.model.save_pretrained(folder, **kwargs, **weights)
        (folder / "README.md").unlink(missing_ok=True)  # a form to fill in
        state = {"step": self.step, "base": self._base, "quantize": self._quantize}
        torch.save(state | more, folder / STATE)

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
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
        """See `Engine.load_weights`; a training with weights that are spread over processes ends with it."""
        if self._group.sharded:
            self._leave(path)
        elif isinstance(self.model, PeftModel):
            set_peft_model_state_dict(self.model, load_peft_weights(path, device="cpu"))
        else:
            self.model.load_state_dict(read(path, "none").state_dict())


def entropy(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Nats of each id (places,) under logits (places, vocabulary) of any type."""
    return cross_entropy(logits.float(), ids, reduction="none")


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device; a GPU fetches it while the program goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def precision(settings: dict) -> str:
    """The type of matrix products: as set, or (auto) bfloat16 where the GPU or the processor multiplies it."""
    if settings["precision"] != "auto":
        return settings["precision"]
    fast = torch.cuda.is_bf16_supported(False) if torch.cuda.is_available() else models.has_fast_bfloat16()
    return "bfloat16" if fast else "float32"
