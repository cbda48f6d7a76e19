"""The training loop, which is the same for all engines, and the interface of the engines that it trains."""

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from titlesmith import models
from titlesmith.corpus.budget import validated_documents
from titlesmith.corpus.documents import Documents
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import InterruptError, RunError
from titlesmith.interrupts import Interrupt
from titlesmith.runs import remove
from titlesmith.train.monitor import Monitor, is_finite
from titlesmith.train.packing import Batch, PackedDataset, padded_batches, prefetch

if TYPE_CHECKING:
    from titlesmith.corpus import Corpus

Sample = Callable[["Engine"], tuple[list[str], float]]
BETAS, ADAM_EPSILON, CLIP = (0.9, 0.999), 1e-8, 1.0  # of AdamW, and the maximum norm of a gradient


class Engine(ABC):
    """A language model that trains, measures losses, and is saved and loaded."""

    tokenizer: Tokenizer
    context: int  # maximum length of a row in tokens
    step: int = 0  # optimizer steps that were applied to the weights in this training
    max_tokens: int = 2**11  # that are read at a time where losses are measured
    checkpoint_bytes: int = 0  # size of what `save_checkpoint` writes; known after `prepare`, as are
    choices: dict[str, str]  # what ``auto`` means in this training, in words

    def masks_documents(self, settings: dict) -> bool:
        """Whether attention is masked to the document in training, as it is in validation and generation.

        A model trained from scratch becomes better when it attends to the documents before (`benchmarks/attention.py`).
        """
        setting = settings["attention"]
        return setting == "document" or (setting == "auto" and settings["model"] not in models.RANDOM)

    @abstractmethod
    def device(self, settings: dict) -> str:
        """What a training with these settings computes on and with, in words."""

    @abstractmethod
    def prepare(self, corpus: "Corpus", settings: dict) -> None:
        """Creates the optimizer, with the state that `load` read (RequestError if memory is too small)."""

    @abstractmethod
    def train_step(self, batch: Batch, rate: float) -> tuple[float, float]:
        """One step of optimization on a batch, with a learning rate; not applied if loss or gradient are not finite.

        Returns the weighted mean loss in nats a token before the update, and the norm of its gradient before clipping.
        """

    @abstractmethod
    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """Loss of each row in nats, summed over its targets, shape (rows,).

        Column ``i`` of ``ids`` (rows, tokens + 1) predicts column ``i + 1``, with weight ``learned`` (rows, tokens).
        """

    def document_losses(self, documents: Documents, chosen: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Loss of each of the ``chosen`` documents (default: all) without its prompt, read alone up to the context.

        Returns nats, and the number of tokens that they are the sum over, float64; 0 where a prompt fills the context.
        """
        chosen = np.arange(len(documents)) if chosen is None else np.asarray(chosen)
        nats, tokens = np.zeros((2, len(documents)))
        for indices, ids, learned in padded_batches(documents, self.context, self.max_tokens, chosen):
            nats[indices], tokens[indices] = self.losses(ids, learned), learned.sum(axis=1)
        return nats[chosen], tokens[chosen]

    def mean_loss(self, documents: Documents) -> float:
        """Mean loss in nats a token, as `document_losses` measures it (RunError if there is no token to predict)."""
        nats, tokens = self.document_losses(documents)
        if not tokens.sum():
            raise RunError("no document leaves the model a token to predict; rebuild the corpus")
        return float(nats.sum() / tokens.sum())

    @abstractmethod
    def save_checkpoint(self, path: Path) -> None:
        """Writes weights, optimizer state and step, but not the tokenizer, and deletes an older checkpoint.

        On a full disk (RunError), the older checkpoint stays complete.
        """

    @abstractmethod
    def save_weights(self, path: Path, tokenizer: bool = True) -> None:
        """Writes weights and step, and the tokenizer that makes it a complete model; other files in ``path`` stay."""

    @abstractmethod
    def load_weights(self, path: Path) -> None:
        """Reads weights that `save_weights` wrote into this model; its step does not change."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, resume: bool = True, tokenizer: Tokenizer | None = None) -> "Engine":
        """Reads a checkpoint: all that an exact resume needs, with the corpus's tokenizer, or its weights only."""

    def agree(self, stop: bool) -> bool:
        """Whether to stop: of several processes that train together, all do if one wants to."""
        return stop

    @contextmanager
    def reporting_failure(self, path: Path, *errors: type[Exception]) -> Iterator[None]:
        """Turns errors of writing a checkpoint, these and an OSError, into one that names the remedy (RunError)."""
        try:
            yield
        except (OSError, RunError, *errors) as error:
            raise RunError(
                f"{path}: the checkpoint of step {self.step} was not written, the one before it is kept. Free some "
                f"space and run the same command again: training resumes. {str(error).splitlines()[0]}"
            ) from None


def finetune(
    engine: Engine,
    corpus: "Corpus",
    settings: dict,
    monitor: Monitor,
    sample: Sample,
    measure: Callable[[Engine], None] = lambda engine: None,
) -> None:
    """Trains an engine on a corpus, from step ``engine.step + 1``, until the monitor reports a reason to stop.

    The weights of the best validation (``keep: best``) or of the last step end in ``monitor.model``. During the
    training, its folder ``last/`` has what resuming needs, and ``best/`` the best weights. ``settings`` are those of
    notebook 03; ``sample`` returns texts of the engine and the share of them that copies a training text; ``measure``
    is called before the first step. The stop button, Ctrl-C and SIGTERM save a checkpoint after the step in progress
    (InterruptError).
    """
    # The data: rows of packed documents, a function of seed and step
    train, valid = corpus.documents("train", settings["train_on_prompt"]), corpus.documents("valid")
    valid = valid.subset(validated_documents(corpus, settings))
    masks, batch_rows = engine.masks_documents(settings), settings["batch_size"] * settings["accumulate"]
    rows = PackedDataset(train, batch_rows, settings["block_size"], settings["seed"], masks)
    if settings["epochs"]:
        settings = settings | {"steps": math.ceil(settings["epochs"] * rows.num_rows / batch_rows)}

    # The optimizer, and space on the disk for an old checkpoint, a new one and the best weights
    engine.prepare(corpus, settings)
    engine.choices["attention"] = "the document of a token" if masks else "the row of a token"
    if monitor.writes:
        print(*(f"{name.capitalize()}: {choice}." for name, choice in engine.choices.items()))
    last, best = monitor.model / "last", monitor.model / "best"
    needed, free = 3 * engine.checkpoint_bytes, shutil.disk_usage(monitor.run.path).free
    if free < needed:
        raise RunError(
            f"{monitor.model}: the disk has {free / 1e9:.1f} GB left; checkpoints of this training take up to "
            f"{needed / 1e9:.1f} GB, an old one, a new one and the best. Free some space, or move the project"
        )

    if not engine.step:
        measure(engine)
    monitor.start(engine.step, settings["steps"], rows.num_targets, batch_rows * settings["block_size"])
    batches = prefetch(rows, engine.step + 1)
    with closing(monitor), Interrupt() as interrupt:
        while not monitor.reason:
            # One optimizer step; an update that is not finite is not applied
            step, batch = next(batches)
            row = {"step": step, "tokens": int(batch.weights.sum()), "learning_rate": learning_rate(step, settings)}
            row["loss"], row["grad_norm"] = engine.train_step(batch, row["learning_rate"])
            if is_finite(row):
                engine.step = step
                # Validate every `validate_every` steps and at the end, and keep the best weights
                if monitor.stop_reason(row) or monitor.due("validate", step):
                    row["valid_loss"] = engine.mean_loss(valid)
                    if settings["keep"] == "best" and monitor.improves(row):
                        engine.save_weights(best, tokenizer=False)
                # Sample texts every `sample_every` steps and at the end, and count copies of training texts
                if monitor.stop_reason(row) or monitor.due("sample", step):
                    texts, row["copy_rate"] = sample(engine)
                    monitor.sample(step, texts)

            # Record the step before its checkpoint, so that no checkpoint is ahead of the history
            monitor.step(**row)
            stopped = engine.agree(bool(interrupt.number))
            if monitor.reason or stopped or monitor.due("save", step):
                monitor.sync()
                engine.save_checkpoint(last)
            if stopped and is_finite(row):
                progress = f"stopped at step {step:,} of {settings['steps']:,}"
                if monitor.writes:
                    monitor.run.update_stage("finetune", stopped=progress)
                error = InterruptError(f"{progress}; {monitor.run.how_to_resume}")
                error.signal = interrupt.number
                raise error

    # Finish: the chosen weights replace the checkpoint. A training killed here finishes when it is run again.
    if last.exists():
        if best.exists():
            engine.load_weights(best)
        engine.save_weights(monitor.model)
        if monitor.writes:
            remove(last)  # in one operation: from now on the model is finished
    if monitor.writes:
        remove(best)


def learning_rate(step: int, settings: dict) -> float:
    """The rate of a step, counted from one: linear warm-up, then constant, or linear or cosine decay to zero.

    The warm-up takes at most a third of all steps, so that a short training reaches its peak too.
    """
    peak, steps = settings["learning_rate"], settings["steps"]
    warmup = min(settings["warmup_steps"], steps // 3)
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup - 1) / max(1, steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return peak * shape[settings["schedule"]]


def choose_precision(settings: dict, fast: bool) -> str:
    """The type of matrix products: the setting, or (auto) bfloat16 where the device multiplies it fast."""
    return {"auto": "bfloat16" if fast else "float32"}.get(settings["precision"], settings["precision"])
