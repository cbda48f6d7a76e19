"""GPT-2 through gpt-2-simple's graph in TensorFlow.

Checkpoints are gpt-2-simple's: ``hparams.json``, ``encoder.json``, ``vocab.bpe``, ``checkpoint`` and the variables
below ``model/``, with the optimizer's beside them; `gpt_2_simple.load_gpt2` reads them. Each engine has a graph and a
session of its own, so that a notebook's cell can be run again in one kernel.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from titlesmith.corpus.tokens import Tokenizer
from titlesmith.engines.base import Draw, Engine
from titlesmith.errors import RequestError
from titlesmith.models import HYPERPARAMETERS
from titlesmith.run import write_json


@contextmanager
def hushed() -> Iterator[None]:
    """Closes the process's standard error for a moment.

    TensorFlow's C++ greets there with a dozen lines on instruction sets and missing GPUs, whatever
    TF_CPP_MIN_LOG_LEVEL says. Exceptions are not affected.
    """
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


with hushed():
    import tensorflow as tf
    from gpt_2_simple.src import model as gpt2

tf.get_logger().setLevel("ERROR")  # no word on restoring parameters
tf1 = tf.compat.v1
CLIP = 1.0  # the gradient's largest norm
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
        self._trainer = self._sampler = self._saver = None
        with tf.Graph().as_default() as graph:
            tf1.set_random_seed(seed)
            self._ids = tf1.placeholder(tf.int32, [None, None])
            self._learned = tf1.placeholder(tf.float32, [None, None])
            logits = gpt2.model(self._hparams, X=self._ids[:, :-1])["logits"]
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self._ids[:, 1:], logits=logits)
            self._losses = tf.reduce_sum(nats * self._learned, axis=1)
            self._variables = tf1.global_variables()
            config = tf1.ConfigProto(gpu_options=tf1.GPUOptions(allow_growth=True))
            with hushed():
                self._session = tf1.Session(graph=graph, config=config)
                self._session.run(tf1.variables_initializer(self._variables))

    @classmethod
    def load(cls, path: Path, resume: bool = True) -> "GPT2Engine":
        """Reads a checkpoint in gpt-2-simple's layout: this engine's, OpenAI's, or one of `gpt_2_simple.finetune`.

        Parameters
        ----------
        path
            Its folder.
        resume
            Whether to go on with the training of this checkpoint (optimizer state and step), or to begin a new one
            from its weights.

        Raises
        ------
        RequestError
            The checkpoint lacks a variable or one has another shape than hparams.json says.
        """
        engine = cls(Tokenizer.load(path), json.loads((path / HYPERPARAMETERS).read_text("utf-8")))
        engine._restore(path, resume)
        return engine

    def _restore(self, path: Path, resume: bool) -> None:
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
            if resume and STEP in stored:
                self._build_trainer()
            tf1.train.Saver(self._variables).restore(self._session, checkpoint)
        if self._trainer:
            self.step = int(self._session.run(self._trainer["step"]))

    def _build_trainer(self) -> dict:
        with self._session.graph.as_default():
            rate = tf1.placeholder(tf.float32, [])
            step = tf1.get_variable(STEP, [], tf.int32, tf1.zeros_initializer(), trainable=False)
            loss = tf.reduce_sum(self._losses) / tf.maximum(tf.reduce_sum(self._learned), 1)
            variables = [v for v in self._variables if v.op.name.startswith("model/")]
            gradients = [tf.convert_to_tensor(g) for g in tf.gradients(loss, variables)]
            clipped, norm = tf.clip_by_global_norm(gradients, CLIP)
            optimizer = tf1.train.AdamOptimizer(rate)

            def apply():
                with tf.control_dependencies([optimizer.apply_gradients(zip(clipped, variables, strict=True))]):
                    return tf1.assign_add(step, 1)

            update = tf.cond(tf.math.is_finite(norm + loss), apply, lambda: tf.identity(step))
            added = [v for v in tf1.global_variables() if v not in self._variables]
            self._session.run(tf1.variables_initializer(added))
            self._variables, self._saver = self._variables + added, None
        self._trainer = {"rate": rate, "step": step, "run": (loss, norm, update)}
        return self._trainer

    def train(self, ids: np.ndarray, learned: np.ndarray, rate: float) -> tuple[float, float]:
        """See `Engine.train`; Adam, the gradient clipped to norm 1."""
        trainer = self._trainer or self._build_trainer()
        feed = {self._ids: ids, self._learned: learned, trainer["rate"]: rate}
        loss, norm, _ = self._session.run(trainer["run"], feed)
        return float(loss), float(norm)

    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """See `Engine.losses`."""
        return self._session.run(self._losses, {self._ids: ids, self._learned: learned})

    def save(self, path: Path) -> None:
        """Writes ``model-<step>`` into ``path``, points ``checkpoint`` to it, then removes older ones."""
        self.tokenizer.save(path)
        write_json(path / HYPERPARAMETERS, self.hyperparameters)
        if not self._saver:
            with self._session.graph.as_default():
                self._saver = tf1.train.Saver(self._variables, save_relative_paths=True)
        written = self._saver.save(self._session, str(path / "model"), global_step=self.step, write_meta_graph=False)
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
    k = tf.minimum(k, tf.shape(logits)[-1])
    return tf.where(logits < tf.math.top_k(logits, k).values[:, -1:], -np.inf, logits)


def keep_top_p(logits: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
    """Nucleus (Holtzman et al. 2020): the likeliest ids of each row that together reach probability ``p``."""
    ordered = tf.sort(logits, direction="DESCENDING")
    before = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)
    last = tf.reduce_min(tf.where(before < p, ordered, np.inf), axis=-1, keepdims=True)
    return tf.where(logits < last, -np.inf, logits)
