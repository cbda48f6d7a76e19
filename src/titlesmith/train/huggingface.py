"""Any causal model of the transformers library, in PyTorch, trained completely or through low-rank adapters (peft).

Checkpoints are folders that transformers (peft for adapters) reads, with the vocabulary and ``titlesmith.pt``: the
step, the model that an adapter belongs to, and the optimizer's state where training resumes. Weights are read from
safetensors, or from pickles of tensors alone; no code of a model's folder is run.
"""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import PeftModel, load_peft_weights
from safetensors import SafetensorError
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from transformers import GenerationConfig, PreTrainedModel

from titlesmith import models
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.models.weights import STATE, read, read_state, with_adapter
from titlesmith.runs import merging, swapping
from titlesmith.train import architectures
from titlesmith.train import distributed as processes
from titlesmith.train.huggingface_step import Step
from titlesmith.train.loop import Engine, choose_precision
from titlesmith.train.packing import Batch
from titlesmith.train.sampled_softmax import describe_softmax, trained_ids
from titlesmith.train.target_losses import TargetLosses

if TYPE_CHECKING:
    from titlesmith.corpus import Corpus

EXPECTED = 6000  # ids of a sampled softmax that a pretrained model expects
PROBED, PROBED_ROW = 2048, 128  # after this many tokens of the corpus, in rows of this size
RELEASE_EVERY = 10  # steps on a processor until freed memory is returned to the system, in a fifth of a second
ERRORS = (RuntimeError, SafetensorError)  # of a write that fails

if torch.cuda.is_available():
    torch.set_float32_matmul_precision("high")  # TF32, as in TensorFlow


class HuggingFaceEngine(Engine):
    """A causal language model of the transformers library, or one with adapters.

    ``base`` is the name (``hf:NAME``) of the model that adapters belong to, ``quantize`` the type of its weights in
    memory: ``none`` for their stored type, or ``8bit``, ``4bit``.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: Tokenizer, base: str = "", quantize: str = "none"
    ):
        self.tokenizer, self._base, self._quantize = tokenizer, base, quantize
        self._model = model if quantize != "none" else model.to("cuda" if torch.cuda.is_available() else "cpu")
        self._model.generation_config = GenerationConfig()  # the publisher's settings would apply otherwise
        self._step: Step | None = None
        self._resumed: dict = {}  # in a checkpoint: the optimizer's state, and the ids of its sampled softmax
        self._losses = TargetLosses(models.max_logits(torch.cuda.is_available()))
        if torch.cuda.is_available():
            self.max_tokens = 8 * Engine.max_tokens
        config = model.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None) or 2048
        table = model.get_input_embeddings().num_embeddings
        if table < len(tokenizer):
            raise RequestError(
                f"model: {base or 'the model'} has {table} embeddings for a vocabulary of {len(tokenizer)} tokens"
            )
        architectures.fuse_gelu(model)

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The model with all embeddings up to date."""
        if self._step and self._step.sampled:
            self._step.sampled.write()
        return self._model

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
    def load(cls, path: Path, resume: bool = True, tokenizer: Tokenizer | None = None) -> "HuggingFaceEngine":
        """See `Engine.load`."""
        state = read_state(path / STATE)
        if (path / "adapter_config.json").exists():
            base = read(models.folder(state["base"]), state["quantize"])
            model = with_adapter(base, path, resume)
        else:
            model = read(path, "none")
        engine = cls(model, tokenizer or Tokenizer.load(path), state["base"], state["quantize"])
        if resume:
            engine.step = state["step"]
            engine._resumed = {name: state[name] for name in ("optimizer", "sampled") if name in state}
        return engine

    def device(self, settings: dict) -> str:
        """See `Engine.device`."""
        device = f"GPU: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else models.cpu_name()
        if settings["processes"] > 1:
            device += f", {settings['processes']} processes" + ", weights sharded" * (settings["sharding"] == "full")
        trained = f"LoRA of rank {settings['lora_rank']}, " if settings["lora_rank"] else ""
        return f"{device}, PyTorch, {trained}matrix products in {precision(settings)}"

    def agree(self, stop: bool) -> bool:
        """See `Engine.agree`."""
        return bool(processes.total(torch.tensor(float(stop))))

    def prepare(self, corpus: "Corpus", settings: dict) -> None:
        """See `Engine.prepare`."""
        models.check_training(settings)
        bf16 = precision(settings) == "bfloat16"
        hyperparameters = models.hyperparameters(settings["model"], len(self.tokenizer))
        used = self._used_ids(corpus, settings)
        softmax = len(self.tokenizer if used is None else used)
        models.check_memory(hyperparameters, settings, bf16, softmax, torch.cuda.is_available())
        self.choices = describe_softmax(softmax, len(self.tokenizer))

        # The parameters that train: adapters, the blocks, or all
        model = self.model
        architectures.set_dropout(model, settings["dropout"])
        if settings["lora_rank"] and not isinstance(model, PeftModel):
            model = self._model = architectures.adapted(model, settings, settings["seed"])
            model.peft_config["default"].base_model_name_or_path = self._base.removeprefix("hf:")
        elif not settings["lora_rank"]:
            model.float().requires_grad_(settings["layers"] == "all")
            architectures.blocks(model).requires_grad_(True)
        if settings["checkpointing"]:
            model.gradient_checkpointing_enable({"use_reentrant": False})

        compiles = architectures.can_compile() and self._quantize == "none" and is_worth_compiling(model, settings)
        self._step = Step(model, self._losses, settings, bf16, used, compiles)
        if self._resumed:
            self._step.load_state(self._resumed["optimizer"])
            self._resumed = {}
        trained = [p for p in model.parameters() if p.requires_grad]
        saved = trained if settings["lora_rank"] else list(self.model.parameters())
        self.checkpoint_bytes = 8 * sum(p.numel() for p in trained) + sum(p.numel() * p.itemsize for p in saved)

    def _used_ids(self, corpus: "Corpus", settings: dict) -> np.ndarray | None:
        """The ids of a sampled softmax; None if the model or the other settings do not allow one.

        They are those of the corpus (`trained_ids`), and others that the pretrained model expects in it.
        """
        # A training resumes as it began, with another number of processes too
        used = self._resumed["sampled"] if self._resumed else trained_ids(corpus, settings)
        if used is None:
            return None
        allowed = self._losses.is_plain(self._model) and self._model.get_output_embeddings().bias is None
        if not allowed or settings["sharding"] != "none":
            if settings["vocabulary"] == "auto" and not self._resumed:
                return None
            raise RequestError(
                "finetune.vocabulary: a softmax over the corpus's tokens needs complete weights in each process and a "
                "linear head without bias: set finetune.sharding to none, or finetune.vocabulary to full"
            )
        if self._resumed or settings["model"] in models.RANDOM:
            return np.asarray(used)
        return np.union1d(used, self._expected_ids(np.array(corpus.documents("train").ids[:PROBED]))).astype(np.int32)

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")
    def _expected_ids(self, ids: np.ndarray) -> np.ndarray:
        """The `EXPECTED` ids of highest probability after ``ids``, on average; at most a tenth of the vocabulary."""
        self._model.eval()
        total = torch.zeros(len(self.tokenizer), device=self._model.device)
        for row in torch.from_numpy(ids).long().to(self._model.device).split(PROBED_ROW):
            total += self._model(input_ids=row[None]).logits[0, :, : len(total)].float().softmax(-1).sum(0)
        return total.topk(min(EXPECTED, len(total) // 10)).indices.cpu().numpy()

    def masks_documents(self, settings: dict) -> bool:
        """See `Engine.masks_documents`; RequestError if ``attention: document`` is not possible with this model."""
        if not super().masks_documents(settings):
            return False
        shape = len(self.tokenizer), settings["block_size"]
        if architectures.separates_documents(self._losses, self._model, *shape):
            return True
        if settings["attention"] == "document":
            raise RequestError(
                "finetune.attention: document: this model does not separate the documents of a row by their position "
                "ids, or attends to fewer tokens than a row has: set it to row"
            )
        return False

    def train_step(self, batch: Batch, rate: float) -> tuple[float, float]:
        """See `Engine.train_step`; each process computes its share of the rows."""
        if self.step % RELEASE_EVERY == 0 and self._model.device.type == "cpu":
            models.release_memory()
        return self._step.run(batch, rate, self.step)

    @torch.no_grad()  # in inference mode, sharded weights could not be trained afterwards
    @torch.compiler.set_stance("force_eager")
    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """See `Engine.losses`; in a training of several processes all call it, each computes its share."""
        mine = np.array_split(np.arange(len(ids)), processes.size())[processes.rank()]
        rows = mine if len(mine) else [0]  # with sharded weights all processes compute or none can
        ids, weights, result = ids[rows], learned[rows], np.zeros(len(ids), np.float32)
        targets, nats = np.flatnonzero(weights), np.zeros(weights.shape, np.float32)
        self.model.eval()
        nats.flat[targets] = self._losses(self._model, ids[:, :-1], targets, ids[:, 1:].reshape(-1)[targets]).cpu()
        result[mine] = (nats * weights).sum(axis=1)[: len(mine)]
        return processes.total(torch.from_numpy(result)).numpy()

    def save_checkpoint(self, path: Path) -> None:
        """See `Engine.save_checkpoint`; of several processes rank 0 writes, and the others wait for it."""
        self._save(path, swapping(path), {"optimizer": self._step.state(), "sampled": self._step.used})

    def save_weights(self, path: Path, tokenizer: bool = True) -> None:
        """See `Engine.save_weights`."""
        self._save(path, merging(path, STATE), {}, tokenizer)

    def _save(self, path: Path, writing: AbstractContextManager, resumed: dict, tokenizer: bool = False) -> None:
        model, options = self.model, {}
        if processes.is_sharded(model):
            options["state_dict"] = get_model_state_dict(model, options=processes.COMPLETE)
        if isinstance(model, PeftModel):
            options["save_embedding_layers"] = False
        if processes.rank() == 0:
            with self.reporting_failure(path, *ERRORS), writing as folder:
                model.save_pretrained(folder, **options)
                (folder / "README.md").unlink(missing_ok=True)  # a template of peft's
                state = {"step": self.step, "base": self._base, "quantize": self._quantize}
                torch.save(state | resumed, folder / STATE)
                if tokenizer:
                    self.tokenizer.save(folder)
        processes.total(torch.zeros(1))  # the others wait

    def load_weights(self, path: Path) -> None:
        """See `Engine.load_weights`."""
        if isinstance(self.model, PeftModel):
            # peft's files do not have the adapter's name
            weights = load_peft_weights(path, device="cpu")
            weights = {re.sub(r"\.(lora_[AB])\.", r".\1.default.", name): value for name, value in weights.items()}
        else:
            weights = read(path, "none").state_dict()
        set_model_state_dict(self.model, weights, options=processes.COMPLETE)


def is_worth_compiling(model: PreTrainedModel | PeftModel, settings: dict) -> bool:
    """Whether compiling saves more time than it takes, and works with the other settings."""
    tokens = settings["steps"] * settings["batch_size"] * settings["accumulate"] * settings["block_size"]
    plain = settings["processes"] == 1 and not settings["checkpointing"]
    return plain and 6 * tokens * model.num_parameters() > architectures.MIN_OPERATIONS


def precision(settings: dict) -> str:
    """The type of matrix products of a training (`choose_precision`)."""
    fast = torch.cuda.is_bf16_supported(False) if torch.cuda.is_available() else models.has_fast_bfloat16()
    return choose_precision(settings, fast)
