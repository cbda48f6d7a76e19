"""GPT-2 through gpt-2-simple's graph in TensorFlow.

Checkpoints are gpt-2-simple's: ``hparams.json``, ``encoder.json``, ``vocab.bpe``, ``checkpoint`` and the variables
below ``model/``; `gpt_2_simple.load_gpt2` reads them. Each engine has a graph and a session of its own, so that a
notebook's cell can be run again in one kernel. Losses and texts come from gpt-2-simple's graph in float32; training has
a faster one of the same function (`titlesmith.engines.graph`).
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np

from titlesmith import models
from titlesmith.corpus import Corpus
from titlesmith.corpus.tokens import Tokenizer
from titlesmith.engines.base import Draw, Engine
from titlesmith.errors import RequestError, RunError
from titlesmith.models import HYPERPARAMETERS
from titlesmith.models.machine import hushed
from titlesmith.run import write_json

with hushed():
    import tensorflow as tf
    from gpt_2_simple.src import model as gpt2

    from titlesmith.engines.graph import Step

tf.get_logger().setLevel("ERROR")  # no word on restoring parameters
tf1 = tf.compat.v1
ROWS = 128  # texts that are drawn side by side
STEP = "titlesmith/step"


class GPT2Engine(Engine):
    """A GPT-2 of any size.

    Parameters
    ----------
    tokenizer
        Its vocabulary.
    hyperparameters
        ``n_vocab n_ctx n_embd n_head n_layer``, as in hparams.json.
    seed
        Decides random initial weights.
    """

    def __init__(self, tokenizer: Tokenizer, hyperparameters: dict, seed: int = 0):
        self.tokenizer, self.hyperparameters, self.context = tokenizer, hyperparameters, hyperparameters["n_ctx"]
        self._hparams = gpt2.default_hparams()
        self._hparams.override_from_dict(hyperparameters)
        self._trainer: Step | None = None
        self._sampler = self._used = self._checkpoint = None
        with tf.Graph().as_default() as graph:
            tf1.set_random_seed(seed)
            self._ids = tf1.placeholder(tf.int32, [None, None])
            self._learned = tf1.placeholder(tf.float32, [None, None])
            logits = gpt2.model(self._hparams, X=self._ids[:, :-1])["logits"]
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self._ids[:, 1:], logits=logits)
            self._losses = tf.reduce_sum(nats * self._learned, axis=1)
            self._variables = tf1.global_variables()
            self._steps = tf1.get_variable(STEP, [], tf.int32, tf1.zeros_initializer(), trainable=False)
            self._saver = tf1.train.Saver([*self._variables, self._steps], save_relative_paths=True)
            config = tf1.ConfigProto(gpu_options=tf1.GPUOptions(allow_growth=True))
            with hushed():
                self._session = tf1.Session(graph=graph, config=config)
                self._session.run(tf1.global_variables_initializer())

    @classmethod
    def load(cls, path: Path, resume: bool = True) -> "GPT2Engine":
        """Reads a checkpoint in gpt-2-simple's layout: this engine's, OpenAI's, or one of `gpt_2_simple.finetune`.

        Parameters
        ----------
        path
            Its folder.
        resume
            Whether to go on from its step and optimizer state, which `prepare` then reads.

        Raises
        ------
        RequestError
            The checkpoint lacks a variable or one has another shape than hparams.json says.
        """
        engine = cls(Tokenizer.load(path), json.loads((path / HYPERPARAMETERS).read_text("utf-8")))
        checkpoint = engine._restore(path)
        names = {name for name, _ in tf.train.list_variables(checkpoint)}
        if resume and STEP in names:
            engine.step = int(tf.train.load_variable(checkpoint, STEP))
            engine._steps.load(engine.step, engine._session)
            moments = any(name.startswith("titlesmith/") for name in names - {STEP})
            engine._checkpoint = checkpoint if moments else None  # a finished model has none
        return engine

    def _restore(self, path: Path) -> str:
        checkpoint = tf.train.latest_checkpoint(path)
        if not checkpoint:
            raise RequestError(f"{path} holds no checkpoint: `checkpoint` or the files that it names are missing")
        stored = dict(tf.train.list_variables(checkpoint))
        for variable in self._variables:
            if stored.get(variable.op.name) != variable.shape.as_list():
                raise RequestError(
                    f"{checkpoint}: {variable.op.name} is {stored.get(variable.op.name, 'missing')}; "
                    f"{HYPERPARAMETERS} asks for {variable.shape.as_list()}. The two are of different models"
                )
        with self._session.graph.as_default():
            tf1.train.Saver(self._variables).restore(self._session, checkpoint)
        return checkpoint

    def device(self, settings: dict) -> str:
        """See `Engine.device`."""
        return f"{models.device()}, matrix products in {precision(settings)}"

    def prepare(self, corpus: Corpus, settings: dict) -> None:
        """See `Engine.prepare`."""
        hyperparameters, bf16 = dict(self.hyperparameters), precision(settings) == "bfloat16"
        if settings["vocabulary"] == "corpus":
            self._used = used_ids(corpus.documents("train").ids, self.tokenizer)
            hyperparameters["n_vocab"] = len(self._used)
        used = None if self._used is None else len(self._used)
        models.check_memory(self.hyperparameters, settings, bf16, used, bool(models.gpus()))
        model = {v.op.name.removeprefix("model/"): v for v in self._variables}
        with self._session.graph.as_default():
            if self._used is not None:
                # A table of the rows that train; the others are neither read nor changed (`_write_back`).
                shape = [len(self._used), hyperparameters["n_embd"]]
                self._table = tf1.get_variable("titlesmith/wte", shape, trainable=False)
                self._read = tf1.assign(self._table, tf.gather(model["wte"], self._used))
                self._write = tf1.assign(
                    model["wte"], tf.tensor_scatter_nd_update(model["wte"], self._used[:, None], self._table)
                )
                self._compact = np.zeros(len(self.tokenizer), np.int32)
                self._compact[self._used] = np.arange(len(self._used))
                model |= {"wte": self._table}
            kind = tf.bfloat16 if bf16 else tf.float32
            self._trainer = Step(
                model, hyperparameters, settings["batch_size"], settings["block_size"], settings, kind, self._steps
            )
            self._session.run(tf1.variables_initializer([*self._trainer.moments, *self._trainer.sums]))
            everything = [*self._variables, self._steps, *self._trainer.moments]
            self._full_saver, self.checkpoint_bytes = (
                tf1.train.Saver(everything, save_relative_paths=True),
                sizes(everything),
            )
            if self._checkpoint:
                self._full_saver.restore(self._session, self._checkpoint)
            if self._used is not None:
                self._session.run(self._read.op)
        self._calls, self._seed, self._changed = settings["accumulate"], settings["seed"], False

    def train(self, ids: np.ndarray, learned: np.ndarray, rate: float) -> tuple[float, float]:
        """See `Engine.train`."""
        step = self._trainer
        feed = {step.rate: rate, step.total: learned.sum()}
        parts = zip(np.split(ids, self._calls), np.split(learned, self._calls), strict=True)
        nats = 0.0
        for call, (some, weight) in enumerate(parts):
            some = some if self._used is None else self._compact[some]
            seed = np.random.SeedSequence([self._seed, self.step, call]).generate_state(2) >> 1
            feed |= {step.ids: some, step.learned: weight, step.seed: seed}
            if call < self._calls - 1:
                nats += self._session.run([step.loss, step.accumulate], feed)[0]
        loss, norm, _ = self._session.run([step.loss, step.norm, step.apply], feed)
        self._changed = True
        return float(nats + loss), float(norm)

    def _write_back(self) -> None:
        if self._used is not None and self._changed:
            self._session.run(self._write.op)
            self._changed = False

    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """See `Engine.losses`."""
        self._write_back()
        return self._session.run(self._losses, {self._ids: ids, self._learned: learned})

    def keep(self, path: Path) -> None:
        """See `Engine.keep`."""
        self._write_back()
        self._save(path, self._saver, sizes(self._variables))

    def restore(self, path: Path) -> None:
        """See `Engine.restore`."""
        self._restore(path)

    def save(self, path: Path) -> None:
        """See `Engine.save`."""
        self._write_back()
        self._save(path, self._full_saver, self.checkpoint_bytes)

    def _save(self, path: Path, saver: tf1.train.Saver, size: int) -> None:
        try:
            self.tokenizer.save(path)
            write_json(path / HYPERPARAMETERS, self.hyperparameters)
            written = saver.save(self._session, str(path / "model"), global_step=self.step, write_meta_graph=False)
        except (tf.errors.OpError, OSError, ValueError) as error:
            for part in path.glob(f"*model-{self.step}.*tempstate*"):
                part.unlink(missing_ok=True)
            raise RunError(
                f"{path}: the checkpoint of step {self.step} was not written, the one before it is kept. "
                f"{shutil.disk_usage(path).free / 1e9:.1f} GB are free; it takes {size / 1e9:.2f} GB. Free some room "
                f"and run the same command again: training goes on from there. {str(error).splitlines()[0]}"
            ) from None
        for file in path.glob("model-*"):
            if file.stem != Path(written).name:
                file.unlink()

    def _build_sampler(self) -> dict:
        """One graph for all calls: the loop stops when every text has ended, and keys and values are kept."""
        with self._session.graph.as_default():
            prompt = tf1.placeholder(tf.int32, [None, None])
            temperature, top_p = tf1.placeholder(tf.float32, []), tf1.placeholder(tf.float32, [])
            top_k, limit, seed = (tf1.placeholder(tf.int32, shape) for shape in ([], [], [2]))
            end = self.tokenizer.end

            def pick(logits, i):
                logits = logits[:, -1]
                own = tf.nn.log_softmax(logits)
                kept = keep_top_p(keep_top_k(logits / temperature, top_k), top_p)
                ids = tf.random.stateless_categorical(kept, 1, seed + tf.stack([0, i]), dtype=tf.int32)[:, 0]
                return ids, tf.gather(own, ids, batch_dims=1)

            def body(i, past, ids, logprob, texts, finished):
                with tf1.variable_scope("", reuse=True):
                    output = gpt2.model(self._hparams, X=ids[:, None], past=past, reuse=True)
                ids, nats = pick(output["logits"], i)
                ids = tf.where(finished, end, ids)
                logprob += tf.where(finished, 0.0, nats)
                past = tf.concat([past, output["present"]], axis=-2)
                return i + 1, past, ids, logprob, tf.concat([texts, ids[:, None]], 1), finished | tf.equal(ids, end)

            first = gpt2.model(self._hparams, X=prompt, reuse=True)
            ids, nats = pick(first["logits"], 0)
            shape = gpt2.past_shape(hparams=self._hparams)
            first["present"].set_shape(shape)
            start = (tf.constant(1), first["present"], ids, nats, ids[:, None], tf.equal(ids, end))
            shapes = ([], shape, [None], [None], [None, None], [None])
            *_, logprob, texts, finished = tf.while_loop(
                lambda i, *state: (i < limit) & ~tf.reduce_all(state[-1]),
                body,
                start,
                shape_invariants=tuple(map(tf.TensorShape, shapes)),
            )
        self._sampler = {
            "prompt": prompt, "temperature": temperature, "top_k": top_k, "top_p": top_p, "limit": limit, "seed": seed,
            "run": (texts, logprob, finished),
        }  # fmt: skip
        return self._sampler

    def generate(self, prompts: list[list[int]], settings: dict) -> list[list[Draw]]:
        """See `Engine.generate`; the seed decides, whatever was generated before."""
        self._write_back()
        sampler = self._sampler or self._build_sampler()
        results = []
        for number, prompt in enumerate(prompts):
            if len(prompt) + settings["max_tokens"] > self.context:
                raise RequestError(
                    f"generate.max_tokens: a prompt of {len(prompt)} tokens and {settings['max_tokens']} behind it "
                    f"exceed the model's context of {self.context}: lower max_tokens or shorten the prompt"
                )
            draws: list[Draw] = []
            while missing := settings["count"] - len(draws):
                seeds = np.random.SeedSequence([*np.atleast_1d(settings["seed"]), number, len(draws)])
                feed = {
                    sampler["prompt"]: [prompt] * min(missing, ROWS),
                    sampler["temperature"]: settings["temperature"],
                    sampler["top_k"]: settings["top_k"] or len(self.tokenizer),
                    sampler["top_p"]: settings["top_p"],
                    sampler["limit"]: settings["max_tokens"],
                    sampler["seed"]: seeds.generate_state(2) >> 1,  # a bit less, for TensorFlow's signed integers
                }
                rows = zip(*self._session.run(sampler["run"], feed), strict=True)
                draws += [self._draw(*row) for row in rows]
            results.append(draws)
        return results

    def _draw(self, ids: np.ndarray, logprob: float, finished: bool) -> Draw:
        length = int(np.argmax(ids == self.tokenizer.end)) if finished else len(ids)
        return Draw(ids[:length].tolist(), float(logprob) / (length + bool(finished)), bool(finished))


def keep_top_k(logits: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """Logits (rows, vocabulary) with all but the ``k`` largest of each row at minus infinity."""

    def cut():
        return tf.where(logits < tf.math.top_k(logits, k).values[:, -1:], -np.inf, logits)

    return tf.cond(k < tf.shape(logits)[-1], cut, lambda: logits)


def keep_top_p(logits: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    """Nucleus (Holtzman et al. 2020): the likeliest ids of each row that together reach probability ``p``."""

    def cut():
        ordered = tf.sort(logits, direction="DESCENDING")
        before = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)
        last = tf.reduce_min(tf.where(before < p, ordered, np.inf), axis=-1, keepdims=True)
        return tf.where(logits < last, -np.inf, logits)

    return tf.cond(p < 1.0, cut, lambda: logits)  # sorting the vocabulary takes longer than the model


def sizes(variables: list) -> int:
    """Bytes that float32 variables take."""
    return sum(4 * math.prod(v.shape.as_list()) for v in variables)


def used_ids(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The vocabulary's ids that occur in ``ids``, all single bytes, and the end of text, in order."""
    used = np.zeros(len(tokenizer), bool)
    for start in range(0, len(ids), 2**22):
        used[ids[start : start + 2**22]] = True
    used[[i for token, i in tokenizer.vocabulary.items() if len(token) == 1 or i == tokenizer.end]] = True
    return np.flatnonzero(used).astype(np.int32)


def precision(settings: dict) -> str:
    """The type of matrix products: as set, or (auto) bfloat16 where the processor multiplies it, else float32."""
    if settings["precision"] != "auto":
        return settings["precision"]
    if cards := models.gpus():
        version = tf.config.experimental.get_device_details(cards[0]).get("compute_capability", (0, 0))
        return "bfloat16" if version >= (8, 0) else "float32"
    return "bfloat16" if models.fast_bfloat16() else "float32"
