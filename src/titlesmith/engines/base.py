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
        monitor.start(self.step, rows.epoch)
        while not monitor.reason:
            step = self.step + 1
            rate = learning_rate(step, settings)
            ids, learned = rows[step]
            loss, norm = self.train(ids, learned, rate)
            finite = math.isfinite(loss) and math.isfinite(norm)
            self.step += finite  # an update that is not finite has not been applied
            stop = monitor.step(
                step=step,
                tokens=int(learned.sum()),
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
            ``max_tokens`` behind the prompt, ``seed`` (a number or several).

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
    def load(cls, path: Path, resume: bool = True) -> "Engine":
        """Reads what `save` wrote: to go on training exactly where it was, or (not ``resume``) the weights alone."""


class Rows:
    """The train split as rows of equal length, a function of the step alone, so that a training resumes exactly.

    Documents are shuffled anew for each epoch and packed: a row starts with an end of text and takes documents as long
    as the next one fits, so that most documents are learned whole and from where generation starts. A document that is
    longer than a row goes on in the next. ``rows[step]`` are the rows of a step, counted from one: ids
    (batch, block + 1) and which predictions are learned (batch, block).

    Attributes
    ----------
    epoch
        Learned predictions an epoch.
    """

    def __init__(self, documents: Documents, batch: int, block: int, seed: int):
        self.documents, self.batch, self.block, self.seed = documents, batch, block, seed
        self.epoch = sum(int(documents.learned(documents[i]).sum()) for i in range(len(documents)))
        self._first, self._epochs, self._rows = 0, 0, []  # number of the first row that is held, epochs packed, rows

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = (step - 1) * self.batch
        if first < self._first:
            self._first, self._epochs, self._rows = 0, 0, []
        while len(self._rows) < first - self._first + self.batch:
            self._rows += self._pack(self._epochs)
            self._epochs += 1
            behind = min(first - self._first, len(self._rows))
            del self._rows[:behind]
            self._first += behind
        at = first - self._first
        ids, learned = zip(*self._rows[at : at + self.batch], strict=True)
        return np.stack(ids), np.stack(learned)

    def _pack(self, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.documents))
        rows, room = [], 0
        for i in order:
            ids = np.concatenate([[self.documents.tokenizer.end], self.documents[i]])
            learned = self.documents.learned(ids[1:])
            if len(learned) > room:
                room = 0
            for start in range(0, len(learned), self.block):
                piece = learned[start : start + self.block]
                if not room:
                    rows.append((np.full(self.block + 1, ids[0], np.int32), np.zeros(self.block, np.float32)))
                    room = self.block
                at = self.block - room
                rows[-1][0][at : at + len(piece) + 1] = ids[start : start + len(piece) + 1]
                rows[-1][1][at : at + len(piece)] = piece
                room -= len(piece)
        return [row for row in rows if row[1].any()]  # a long prompt can fill rows with nothing to learn


def padded(documents: Documents, context: int, tokens: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents of like length side by side, at most ``tokens`` ids a batch, cut at the context; as in `train`."""
    lengths = np.minimum(np.diff(documents.starts.astype(np.int64)), context)
    batch: list[int] = []
    for i in np.argsort(lengths, kind="stable"):
        if batch and (len(batch) + 1) * lengths[i] > tokens:
            yield _side_by_side(documents, batch, lengths)
            batch = []
        batch.append(i)
    yield _side_by_side(documents, batch, lengths)


def _side_by_side(documents: Documents, batch: list[int], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = max(lengths[i] for i in batch)
    ids = np.full((len(batch), width + 1), documents.tokenizer.end, np.int32)
    learned = np.zeros((len(batch), width), np.float32)
    for row, i in enumerate(batch):
        document = documents[i]
        ids[row, 1 : lengths[i] + 1] = document[: lengths[i]]
        learned[row, : lengths[i]] = documents.learned(document)[: lengths[i]]
    return ids, learned


def learning_rate(step: int, settings: dict) -> float:
    """The rate of a step, counted from one: linear warm-up, then constant, or linear or cosine decay to zero.

    The warm-up takes a third of all steps at most, so that a short training reaches its peak too.
    """
    peak, steps = settings["learning_rate"], settings["steps"]
    warmup = min(settings["warmup_steps"], steps // 3)
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup - 1) / max(1, steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return peak * shape[settings["schedule"]]
