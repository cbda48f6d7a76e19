"""GPT-2 through gpt-2-simple's graph in TensorFlow.

Checkpoints are gpt-2-simple's: ``hparams.json``, ``encoder.json``, ``vocab.bpe``, ``checkpoint`` and the variables
below ``model/``. Each engine has a separate graph and session, so that a notebook's cell can be run again. Losses come
from gpt-2-simple's graph in float32; training has a faster one of the same function (`titlesmith.train.gpt2_step`).
"""

import json
from pathlib import Path

import numpy as np

from titlesmith import models
from titlesmith.corpus import Corpus
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.models import HYPERPARAMETERS
from titlesmith.models.devices import silence_stderr
from titlesmith.runs import merging, write_json
from titlesmith.train.loop import Engine, choose_precision
from titlesmith.train.packing import Batch
from titlesmith.train.sampled_softmax import describe_softmax, trained_ids

with silence_stderr():
    import tensorflow as tf
    from gpt_2_simple.src import model as gpt2

    from titlesmith.train.gpt2_step import SampledSoftmax, Step

tf.get_logger().setLevel("ERROR")  # no messages about restored parameters
tf1 = tf.compat.v1
STEP = "titlesmith/step"


class GPT2Engine(Engine):
    """A GPT-2 of any size.

    ``hyperparameters`` are ``n_vocab n_ctx n_embd n_head n_layer``, as in hparams.json; ``seed`` decides random initial
    weights and is None if they are read instead.
    """

    def __init__(self, tokenizer: Tokenizer, hyperparameters: dict, seed: int | None = 0):
        self.tokenizer, self.hyperparameters, self.context = tokenizer, hyperparameters, hyperparameters["n_ctx"]
        self._hparams = gpt2.default_hparams()
        self._hparams.override_from_dict(hyperparameters)
        self.max_tokens = 2**25 // max(2**14, len(tokenizer))  # logits take four bytes each, and their copies
        self._trainer: Step | None = None
        self._sampled = self._checkpoint = None
        with tf.Graph().as_default() as graph:
            tf1.set_random_seed(seed)
            self._ids = tf1.placeholder(tf.int32, [None, None])
            self._learned = tf1.placeholder(tf.float32, [None, None])
            logits = gpt2.model(self._hparams, X=self._ids[:, :-1])["logits"]
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self._ids[:, 1:], logits=logits)
            self._losses = tf.reduce_sum(nats * self._learned, axis=1)
            self._variables = tf1.global_variables()
            self._steps = tf1.get_variable(STEP, [], tf.int32, tf1.zeros_initializer(), trainable=False)
            self._saver = tf1.train.Saver([*self._variables, self._steps], save_relative_paths=True, max_to_keep=1)
            config = tf1.ConfigProto(gpu_options=tf1.GPUOptions(allow_growth=True))
            with silence_stderr():
                self._session = tf1.Session(graph=graph, config=config)
                random = self._variables if seed is not None else []
                self._session.run(tf1.variables_initializer([*random, self._steps]))

    @classmethod
    def of_weights(cls, weights: dict[str, np.ndarray], hyperparameters: dict, tokenizer: Tokenizer) -> "GPT2Engine":
        """A model with these variables, by gpt-2-simple's names."""
        engine = cls(tokenizer, hyperparameters, None)
        for variable in engine._variables:
            variable.load(weights[variable.op.name], engine._session)
        return engine

    @classmethod
    def load(cls, path: Path, resume: bool = True, tokenizer: Tokenizer | None = None) -> "GPT2Engine":
        """Reads a checkpoint in gpt-2-simple's layout: this engine's, OpenAI's, or one of `gpt_2_simple.finetune`.

        See `Engine.load`; `prepare` reads the optimizer state. RequestError if the checkpoint lacks a variable, or one
        has another shape than hparams.json says.
        """
        engine = cls(tokenizer or Tokenizer.load(path), json.loads((path / HYPERPARAMETERS).read_text("utf-8")), None)
        checkpoint = engine.load_weights(path)
        names = {name for name, _ in tf.train.list_variables(checkpoint)}
        if resume and STEP in names:
            engine.step = int(tf.train.load_variable(checkpoint, STEP))
            engine._steps.load(engine.step, engine._session)
            if len(names) > len(engine._variables) + 1:  # a finished model has no moments
                engine._checkpoint = checkpoint
        return engine

    def load_weights(self, path: Path) -> str:
        """See `Engine.load_weights`; returns the prefix of the checkpoint's files."""
        checkpoint = tf.train.latest_checkpoint(path)
        if not checkpoint:
            raise RequestError(f"{path} has no checkpoint: `checkpoint` or the files that it names are missing")
        stored = dict(tf.train.list_variables(checkpoint))
        for name, shape in ((v.op.name, v.shape.as_list()) for v in self._variables):
            if stored.get(name) != shape:  # TensorFlow would read a variable of another shape without an error
                raise RequestError(f"{checkpoint}: {name} is {stored.get(name)}; {HYPERPARAMETERS} says {shape}")
        with self._session.graph.as_default():
            tf1.train.Saver(self._variables).restore(self._session, checkpoint)
        return checkpoint

    def device(self, settings: dict) -> str:
        """See `Engine.device`."""
        return f"{models.device_name()}, matrix products in {precision(settings)}"

    def prepare(self, corpus: Corpus, settings: dict) -> None:
        """See `Engine.prepare`."""
        bf16, used, self._sampled = precision(settings) == "bfloat16", trained_ids(corpus, settings), None
        softmax = len(self.tokenizer if used is None else used)
        models.check_memory(self.hyperparameters, settings, bf16, softmax, bool(models.gpus()))
        self.choices = describe_softmax(softmax, len(self.tokenizer))
        model = {v.op.name.removeprefix("model/"): v for v in self._variables}
        shape, kind = (settings["batch_size"], settings["block_size"]), tf.bfloat16 if bf16 else tf.float32
        with self._session.graph.as_default():
            if used is not None:
                self._sampled = SampledSoftmax(model["wte"], used)
            self._trainer = Step(model, self.hyperparameters, shape, settings, kind, self._steps, self._sampled)
            self._session.run(tf1.variables_initializer([*self._trainer.moments, *self._trainer.sums]))
            saved = [*self._variables, self._steps, *self._trainer.moments]
            self._full_saver = tf1.train.Saver(saved, save_relative_paths=True, max_to_keep=1)
            self.checkpoint_bytes = sum(4 * v.shape.num_elements() for v in saved)
            if self._checkpoint:
                self._full_saver.restore(self._session, self._checkpoint)
            if self._sampled:
                self._session.run(self._sampled.read)
        self._calls, self._seed, self._changed = settings["accumulate"], settings["seed"], False

    def train_step(self, batch: Batch, rate: float) -> tuple[float, float]:
        """See `Engine.train_step`."""
        step, sampled, nats = self._trainer, self._sampled, 0.0
        feed = {step.rate: rate, step.total: batch.weights.sum()}
        if sampled:  # the same for all calls of a step, so that they add up to one large batch
            feed[sampled.others] = sampled.sample([self._seed, self.step])
        for call, part in enumerate(batch.split(self._calls)):
            feed |= {getattr(step, name): value for name, value in vars(part).items()}
            if sampled:
                feed |= {step.ids: sampled.rows(part.ids), step.labels: sampled.rows(part.labels)}
            feed[step.seed] = np.random.SeedSequence([self._seed, self.step, call]).generate_state(2) >> 1
            if call < self._calls - 1:
                nats += self._session.run([step.loss, step.accumulate], feed)[0]
        loss, norm, _ = self._session.run([step.loss, step.norm, step.apply], feed)
        self._changed = True
        return float(nats + loss), float(norm)

    def _write_back(self) -> None:
        """Brings the model's embeddings up to date with those of the sampled softmax."""
        if self._sampled and self._changed:
            self._session.run(self._sampled.write)
            self._changed = False

    def losses(self, ids: np.ndarray, learned: np.ndarray) -> np.ndarray:
        """See `Engine.losses`."""
        self._write_back()
        return self._session.run(self._losses, {self._ids: ids, self._learned: learned})

    def save_weights(self, path: Path, tokenizer: bool = True) -> None:
        """See `Engine.save_weights`."""
        self._write_back()
        self._save(path, self._saver, tokenizer)

    def save_checkpoint(self, path: Path) -> None:
        """See `Engine.save_checkpoint`."""
        self._write_back()
        self._save(path, self._full_saver)

    def weights(self) -> dict[str, np.ndarray]:
        """The model's variables, float32, by gpt-2-simple's names without ``model/``."""
        self._write_back()
        values = self._session.run(self._variables)
        return {v.op.name.removeprefix("model/"): value for v, value in zip(self._variables, values, strict=True)}

    def _save(self, path: Path, saver: tf1.train.Saver, tokenizer: bool = False) -> None:
        with self.reporting_failure(path, tf.errors.OpError, ValueError), merging(path, "checkpoint") as new:
            if tokenizer:
                self.tokenizer.save_gpt2(new)
            write_json(new / HYPERPARAMETERS, self.hyperparameters)
            saver.save(self._session, str(new / "model"), global_step=self.step, write_meta_graph=False)
        for file in path.glob("model-*"):
            if file.stem != f"model-{self.step}":
                file.unlink()


def precision(settings: dict) -> str:
    """The type of matrix products of a training (`choose_precision`)."""
    if cards := models.gpus():
        version = tf.config.experimental.get_device_details(cards[0]).get("compute_capability", (0, 0))
        return choose_precision(settings, fast=version >= (8, 0))
    return choose_precision(settings, models.has_fast_bfloat16())
