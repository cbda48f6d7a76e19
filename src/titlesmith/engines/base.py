"""What an engine is: a model that trains, generates, measures its loss, and is saved and loaded.

Notebooks never see which engine they have. The training loop is the same for all: an engine adds one step of
optimization, and the rest (order of the data, schedule, validation, samples, checkpoints, history) is here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.corpus.tokens import Documents, Tokenizer
from titlesmith.monitor import Monitor

SAMPLES = 4  # texts a sample while training
SAMPLING = {"temperature": 0.7, "top_k": 40, "top_p": 1.0, "max_tokens": 48}


@dataclass(frozen=True)
class Draw:
    """One sampled continuation of a prompt.

    Attributes
    ----------
    ids
        The ids behind the prompt, without the end of text.
    logprob
        Mean log-probability of these ids and of the end of text, in nats a token, under the model itself
        (temperature 1, nothing cut off).
    finished
        Whether the model ended the text; False where it ran into the limit.
    """

    ids: list[int]
    logprob: float
    finished: bool


class Engine(ABC):
    """A language model.

    Attributes
    ----------
    tokenizer
        The model's vocabulary.
    context
        The longest row that the model reads, in tokens.
    step
        Optimizer steps that the weights have behind them in this training.
    """

    tokenizer: Tokenizer
    context: int
    step: int = 0

    def finetune(self, corpus: Corpus, settings: dict, monitor: Monitor) -> None:
        """Trains on the corpus until the monitor says why to stop, going on behind ``self.step``.

        Parameters
        ----------
        corpus
            Its train split is learned, its valid split measured.
        settings
            ``steps``, ``batch_size`` (rows a step), ``block_size`` (tokens a row), ``learning_rate``,
            ``warmup_steps``, ``schedule`` (constant, linear or cosine), ``seed``.
        monitor
            Gets every step; says when to validate, to sample and to save, and where.
        """
        rows = Rows(corpus.documents("train"), settings["batch_size"], settings["block_size"], settings["seed"])
        valid = corpus.documents("valid")
        opening = self.tokenizer.prompt(corpus.table("valid")["prompt"][0], corpus.has_prompt)
        sampling = SAMPLING | {"count": SAMPLES, "seed": settings["seed"]}
        sampling["max_tokens"] = min(sampling["max_tokens"], self.context - len(opening))
        monitor.start(self.step)
        while not monitor.reason:
            step = self.step + 1
            rate = learning_rate(step, settings)
            loss, norm = self.train(*rows[step], rate)
            finite = math.isfinite(loss) and math.isfinite(norm)
            self.step += finite  # an update that is not finite has not been applied
            stop = monitor.step(
                step=step,
                epoch=round(step * rows.tokens / rows.epoch, 4),
                tokens=step * rows.tokens,
                loss=loss,
                valid_loss=self.loss(valid) if finite and monitor.due("validate", step) else None,
                learning_rate=rate,
                grad_norm=norm,
            )
            if finite and (stop or monitor.due("sample", step)):
                (draws,) = self.generate([opening], sampling)
                monitor.sample(step, [self.tokenizer.decode(draw.ids) for draw in draws])
            if stop or monitor.due("save", step):
                self.save(monitor.model)
        monitor.close()

    @abstractmethod
    def train(self, ids: np.ndarray, learned: np.ndarray, rate: float) -> tuple[float, float]:
        """One step of optimization, not applied where loss or gradient are not finite.

        Parameters
        ----------
        ids
            Rows of ids, shape (rows, tokens + 1): column ``i`` predicts column ``i + 1``.
        learned
            Weight of each prediction in the mean loss, shape (rows, tokens).
        rate
            Learning rate.

        Returns
        -------
        tuple of float
            Mean loss in nats a token before the update, and the norm of its gradient before clipping.
        """

    @abstractmethod
    def generate(self, prompts: list[list[int]], settings: dict) -> list[list[Draw]]:
        """Samples texts to their end.

        Parameters
        ----------
        prompts
            Ids that open a document (`Tokenizer.prompt`).
        settings
            ``count`` texts a prompt, ``temperature`` (above 0), ``top_k`` (0 for all), ``top_p`` (1 for all),
            ``max_tokens`` behind the prompt, ``seed``.

        Returns
        -------
        list
            ``count`` draws for each prompt.

        Raises
        ------
        RequestError
            A prompt and ``max_tokens`` together exceed the context.
        """

    @abstractmethod
    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """Loss of each row in nats, summed over its learned ids; shapes as in `train`, result (rows,)."""

    def loss(self, documents: Documents) -> float:
        """Mean loss in nats a token over documents, each read on its own; completions only where there are prompts."""
        nats = tokens = 0.0
        for ids, learned in padded(documents, self.context):
            nats += float(self.losses(ids, learned).sum())
            tokens += float(learned.sum())
        return nats / tokens

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes weights, optimizer state and step beside an older checkpoint, which it then replaces."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, seed: int = 0) -> "Engine":
        """Reads what `save` wrote; training goes on exactly where it was."""


class Rows:
    """The train split as rows of equal length, a function of the step alone, so that a training resumes exactly.

    Documents are shuffled anew for each epoch and joined, an end of text between them; rows follow one another in
    that sequence, so that every document is seen once an epoch. ``rows[step]`` are the rows of a step, counted from
    one: ids (batch, block + 1) and which predictions are learned (batch, block).

    Attributes
    ----------
    tokens
        Predictions a step.
    epoch
        Predictions an epoch.
    """

    def __init__(self, documents: Documents, batch: int, block: int, seed: int):
        self.documents, self.shape, self.seed = documents, (batch, block), seed
        self.tokens, self.epoch = batch * block, len(documents.ids) - 1
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        batch, block = self.shape
        # Predicted ids of the step, and before them the id that the first is predicted from
        at = (step - 1) * self.tokens + np.arange(self.tokens)
        ids, learned = self._at(at)
        before = self._at(at[:1] - 1)[0] if at[0] else np.array([self.documents.tokenizer.end], np.int32)
        ids = np.concatenate([before, ids])
        return (
            np.stack([ids[row * block : (row + 1) * block + 1] for row in range(batch)]),
            learned.reshape(batch, block),
        )

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs = range(positions[0] // self.epoch, positions[-1] // self.epoch + 1)
        self._cache = {e: self._cache.get(e) or self._shuffled(e) for e in epochs}
        places = {e: positions[positions // self.epoch == e] % self.epoch for e in epochs}
        ids, learned = (np.concatenate([self._cache[e][k][at] for e, at in places.items()]) for k in (0, 1))
        return ids, learned

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.documents))
        documents = [self.documents[i] for i in order]
        return np.concatenate(documents), np.concatenate([self.documents.learned(d) for d in documents])


def padded(documents: Documents, context: int, tokens: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents of like length side by side, about ``tokens`` ids a batch, cut at the context; shapes as in `train`."""
    end = documents.tokenizer.end
    order = np.argsort(np.diff(documents.starts.astype(np.int64)), kind="stable")
    batch: list[tuple[np.ndarray, np.ndarray]] = []
    for place, i in enumerate(order):
        document = documents[i]
        batch.append((document[:context], documents.learned(document)[:context]))
        width = len(batch[-1][0])
        if (len(batch) + 1) * width > tokens or place == len(order) - 1:
            ids = np.full((len(batch), width + 1), end, np.int32)
            learned = np.zeros((len(batch), width), np.float32)
            for row, (document, mask) in enumerate(batch):
                ids[row, 1 : len(document) + 1] = document
                learned[row, : len(document)] = mask
            yield ids, learned
            batch = []


def learning_rate(step: int, settings: dict) -> float:
    """The rate of a step, counted from one: linear warm-up, then constant, or linear or cosine decay to zero."""
    peak, warmup, steps = settings["learning_rate"], settings["warmup_steps"], settings["steps"]
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup - 1) / max(1, steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return peak * shape[settings["schedule"]]
