"""What an engine is: a model that trains, generates, measures its loss, and is saved and loaded.

Notebooks never see which engine they have. The training loop is the same for all: an engine adds one step of
optimization, and the rest (order of the data, schedule, validation, samples, checkpoints, history) is here.
"""

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import fold
from titlesmith.corpus.tokens import Documents, Tokenizer
from titlesmith.errors import RunError
from titlesmith.monitor import Monitor

CHUNK = 2**16  # documents that are packed together
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
    checkpoint_bytes
        Size of what `save` writes, once `prepare` was called.
    """

    tokenizer: Tokenizer
    context: int
    step: int = 0
    checkpoint_bytes: int = 0

    def finetune(self, corpus: Corpus, settings: dict, monitor: Monitor) -> None:
        """Trains on the corpus until the monitor says why to stop, going on behind ``self.step``.

        The model ends with the weights of the best validation (``keep`` is best) or of the last step, in
        ``monitor.model``; while it trains, ``last/`` below has what resuming needs and ``best/`` the best weights.

        Parameters
        ----------
        corpus
            Its train split is learned, its valid split measured.
        settings
            The parameters of notebook 03.
        monitor
            Gets every step; says when to validate, to sample and to save, and where.
        """
        batch = settings["batch_size"] * settings["accumulate"]
        rows = Rows(corpus.documents("train"), batch, settings["block_size"], settings["seed"])
        steps = settings["steps"]
        if settings["epochs"]:
            steps = math.ceil(settings["epochs"] * rows.count / batch)
        settings = settings | {"steps": steps}
        valid, last, best = corpus.documents("valid"), monitor.model / "last", monitor.model / "best"
        probe = Probe(self, corpus, settings)
        self.prepare(corpus, settings)
        needed, free = 3 * self.checkpoint_bytes, shutil.disk_usage(monitor.run.path).free
        if free < needed:
            raise RunError(
                f"{monitor.model}: the disk has {free / 1e9:.1f} GB left; checkpoints of this training take up to "
                f"{needed / 1e9:.1f} GB, an old one, a new one and the best. Free some room, or move the project"
            )
        monitor.start(self.step, steps, rows.epoch)
        while not monitor.reason:
            step = self.step + 1
            ids, learned = rows[step]
            row = {"step": step, "tokens": int(learned.sum()), "learning_rate": learning_rate(step, settings)}
            row["loss"], row["grad_norm"] = self.train(ids, learned, row["learning_rate"])
            finite = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
            self.step += finite  # an update that is not finite has not been applied
            stop = monitor.stops(row)
            if finite and (stop or monitor.due("validate", step)):
                row["valid_loss"] = self.loss(valid)
                stop = monitor.stops(row)
                if settings["keep"] == "best" and monitor.improves(row):
                    self.keep(best)
            if finite and (stop or monitor.due("sample", step)):
                texts, row["copy_rate"] = probe.texts(self)
                monitor.sample(step, texts)
            monitor.step(**row)
            if stop or monitor.due("save", step):
                self.save(last)
        monitor.close()
        if last.exists():
            if best.exists():
                self.restore(best)
            self.keep(monitor.model)
            last.replace(done := monitor.model / ".done")  # at once: from here on the model is finished
            shutil.rmtree(done)
        shutil.rmtree(best, ignore_errors=True)

    @abstractmethod
    def device(self, settings: dict) -> str:
        """What a training with these settings computes on and with, in words."""

    @abstractmethod
    def prepare(self, corpus: Corpus, settings: dict) -> None:
        """Makes ready to train, with the optimizer's state where `load` found one to go on from.

        Raises
        ------
        RequestError
            The training does not fit into memory; the message says what would.
        """

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
        # Logits of a batch take four bytes an entry of the vocabulary: 256 MB at most
        for ids, learned in padded(documents, self.context, min(4096, 2**26 // len(self.tokenizer))):
            nats += float(self.losses(ids, learned).sum())
            tokens += float(learned.sum())
        return nats / tokens

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes weights, optimizer state and step beside an older checkpoint, which it then replaces.

        Raises
        ------
        RunError
            There is no room; the older checkpoint is whole.
        """

    @abstractmethod
    def keep(self, path: Path) -> None:
        """`save` of weights and step alone: what generates and is measured."""

    @abstractmethod
    def restore(self, path: Path) -> None:
        """Reads weights that `keep` wrote into this model; the step stays as it is."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, resume: bool = True) -> "Engine":
        """Reads what `save` wrote: to go on training exactly where it was, or (not ``resume``) the weights alone."""


class Probe:
    """Texts that a model writes while it trains, and the share of them that it has by heart.

    Parameters
    ----------
    engine
        Decides how long a text may be.
    corpus
        Its train split is what a text may be a copy of; the opening is that of its first valid document.
    settings
        ``probe`` (texts each time) and ``seed``.
    """

    def __init__(self, engine: "Engine", corpus: Corpus, settings: dict):
        # Hashes, because millions of abstracts do not fit into memory
        batches = corpus.scan("train").select("completion").collect_batches()
        self.corpus, self._known = corpus, {hash(fold(text)) for batch in batches for text in batch.to_series()}
        self.opening = corpus.layout.opening(corpus.scan("valid").head(1).collect()["prompt"].item())
        self.sampling = SAMPLING | {"count": settings["probe"], "seed": settings["seed"]}
        self.sampling["max_tokens"] = min(self.sampling["max_tokens"], engine.context - len(self.opening))

    def texts(self, engine: "Engine") -> tuple[list[str], float]:
        """Texts, and the share that equals a training text after folding of case and space."""
        (draws,) = engine.generate([self.opening], self.sampling)
        texts = [self.corpus.layout.text(draw.ids) for draw in draws]
        return texts, sum(hash(fold(text)) in self._known for text in texts) / len(texts)


class Rows:
    """The train split as rows of equal length, a function of the step alone, so that a training resumes exactly.

    Documents are shuffled anew for each epoch and packed: a row starts with an end of text, and a document goes into
    the fullest row that has room for it (best fit), so that rows are nearly full and a document is learned whole, once
    an epoch. One that is longer than a row fills rows of its own, and its end goes where there is room. ``rows[step]``
    are the rows of a step, counted from one: ids (batch, block + 1) and which predictions are learned (batch, block).

    Attributes
    ----------
    epoch
        Learned predictions an epoch.
    count
        Rows in the first epoch; others differ by a few.
    """

    def __init__(self, documents: Documents, batch: int, block: int, seed: int):
        self.documents, self.batch, self.block, self.seed = documents, batch, block, seed
        self.epoch = documents.learned_tokens
        self._begin()
        self.count = sum(len(rows) for rows in map(self._pack, *self._chunks(0)))

    def _begin(self) -> None:
        self._packed = self._all()
        self._first, self._rows = 0, []  # number of the first row that is held; rows as lists of pieces

    def _all(self) -> Iterator[list]:
        for epoch in count():
            yield from map(self._pack, *self._chunks(epoch))

    def _chunks(self, epoch: int) -> tuple[list, list]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.documents))
        chunks = np.array_split(order, math.ceil(len(order) / CHUNK))
        return chunks, [[self.seed, epoch, i] for i in range(len(chunks))]

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = (step - 1) * self.batch
        if first < self._first:
            self._begin()
        while len(self._rows) < first - self._first + self.batch:
            behind = min(first - self._first, len(self._rows))
            self._rows, self._first = self._rows[behind:] + next(self._packed), self._first + behind
        at = first - self._first
        ids, learned = zip(*map(self._fill, self._rows[at : at + self.batch]), strict=True)
        return np.stack(ids), np.stack(learned)

    def _pack(self, order: np.ndarray, seed: list[int]) -> list[list[tuple[int, int, int]]]:
        """Rows as pieces (document, start, end) of at most ``block`` tokens in all, from lengths alone."""
        starts = self.documents.starts
        rows, rooms, open_rows = [], 0, {}  # rooms: bit r is set where a row has room for r more tokens
        for i in map(int, order):
            length, start = int(starts[i + 1] - starts[i]), 0
            while length - start > self.block:
                rows.append([(i, start, start + self.block)])
                start += self.block
            wanted = length - start
            fitting = 0 if start else rooms >> wanted  # what goes on begins a row, behind the token before it
            if fitting:
                room = wanted + (fitting & -fitting).bit_length() - 1
                row = open_rows[room].pop()
                if not open_rows[room]:
                    rooms &= ~(1 << room)
            else:
                room, row = self.block, []
                rows.append(row)
            row.append((i, start, length))
            if room > wanted:
                open_rows.setdefault(room - wanted, []).append(row)
                rooms |= 1 << (room - wanted)
        if self.documents.has_prompt:  # a long prompt can fill rows with nothing to learn
            rows = [row for row in rows if len(row) > 1 or self._fill(row)[1].any()]
        # The last rows of a chunk are the least full: they are spread over it.
        np.random.default_rng(seed).shuffle(rows)
        return rows

    def _fill(self, row: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.full(self.block + 1, self.documents.tokenizer.end, np.int32)
        learned, at = np.zeros(self.block, np.float32), 0
        for i, start, end in row:
            document = self.documents[i]
            if start:
                ids[at] = document[start - 1]
            ids[at + 1 : at + 1 + end - start] = document[start:end]
            learned[at : at + end - start] = self.documents.learned(document)[start:end]
            at += end - start
        return ids, learned


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
