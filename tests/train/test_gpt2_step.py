"""The training graph: the same losses and gradients as gpt-2-simple's graph, and AdamW as its paper has it."""

import numpy as np
import pytest

from titlesmith import models
from titlesmith.train import kernels
from titlesmith.train import sampled_softmax as vocabulary
from titlesmith.train.gpt2 import gpt2, tf, tf1  # silence_stderr
from titlesmith.train.gpt2_step import SampledSoftmax, Step
from titlesmith.train.kernels import drop, recomputed, token_nats
from titlesmith.train.loop import ADAM_EPSILON, BETAS, CLIP
from titlesmith.train.packing import Batch, PackedDataset
from titlesmith.train.sampled_softmax import SHIFT_LR_SCALE
from train.test_packing import END, random_documents

SHAPE = {"n_vocab": 300, "n_ctx": 48, "n_embd": 32, "n_head": 2, "n_layer": 2}
SETTINGS = {"dropout": 0.0, "weight_decay": 0.1, "accumulate": 1, "layers": "all", "checkpointing": False}
ROWS, BLOCK, RATE = 3, 20, 0.01


class Both:
    """gpt-2-simple's graph and a `Step` on the same variables, which are random."""

    def __init__(self, kind=tf.float32, rows=ROWS, used=None, **settings):
        with tf.Graph().as_default() as graph:
            hparams = gpt2.default_hparams()
            hparams.override_from_dict(SHAPE)
            self.x, self.w = tf1.placeholder(tf.int32, [None, None]), tf1.placeholder(tf.float32, [None, None])
            self.logits = gpt2.model(hparams, X=self.x[:, :-1])["logits"]
            nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self.x[:, 1:], logits=self.logits)
            self.loss = tf.reduce_sum(nats * self.w) / tf.reduce_sum(self.w)
            variables = {v.op.name.removeprefix("model/"): v for v in tf1.global_variables()}
            self.gradients = dict(zip(variables, tf.gradients(self.loss, list(variables.values())), strict=True))
            self.gradients = {n: tf.convert_to_tensor(g) for n, g in self.gradients.items()}
            steps = tf1.get_variable("steps", [], tf.int32, tf1.zeros_initializer(), trainable=False)
            self.part = None if used is None else SampledSoftmax(variables["wte"], used)
            self.step = Step(variables, SHAPE, (rows, BLOCK), SETTINGS | settings, kind, steps, self.part)
            self.session = tf1.Session(graph=graph)
            self.session.run(tf1.global_variables_initializer())
        self.variables, self.names = variables, list(variables)
        generator = np.random.default_rng(3)
        self._first = [(v, generator.normal(n.endswith("/g"), 0.1, v.shape.as_list())) for n, v in variables.items()]
        self._first += [(v, np.zeros(v.shape.as_list())) for v in (steps, *self.step.moments, *self.step.sums)]

    def reset(self) -> "Both":
        for variable, value in self._first:
            variable.load(value, self.session)
        if self.part:
            self.session.run(self.part.read)
        return self

    def values(self) -> dict:
        return self.session.run(self.variables)

    def feed(self, ids, weights, total=None, seed=(1, 2), others=None) -> dict:
        positions = np.tile(np.arange(BLOCK), (len(ids), 1))  # a row is one document
        batch = Batch(ids[:, :-1], positions, ids[:, 1:], weights)
        return self.fed(batch, seed, total) | ({} if others is None else {self.part.others: others})

    def fed(self, batch: Batch, seed=(1, 2), total=None) -> dict:
        step = self.step
        feed = {getattr(step, name): value for name, value in vars(batch).items()} | {step.seed: seed, step.rate: RATE}
        return feed | {step.total: batch.weights.sum() if total is None else total}

    def run(self, what, ids, learned, **more):
        return self.session.run(what, self.feed(ids, learned, **more))


BUILT: dict[str, Both] = {}  # compiling each takes seconds


def both_of(**settings) -> Both:
    """The graphs of these settings with their first variables; each is built once."""
    key = repr(settings)
    if key not in BUILT:
        BUILT[key] = Both(**settings)
    return BUILT[key].reset()


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    ids = generator.integers(0, SHAPE["n_vocab"], (ROWS, BLOCK + 1))
    return ids, (generator.random((ROWS, BLOCK)) > 0.3).astype(np.float32)


def test_kernels_are_compiled_once_whatever_the_number_of_layers():
    def kernels(layers: int) -> set[str]:
        with tf.Graph().as_default() as graph:
            hparams = gpt2.default_hparams()
            hparams.override_from_dict(SHAPE | {"n_layer": layers})
            gpt2.model(hparams, X=tf1.placeholder(tf.int32, [None, None]))
            variables = {v.op.name.removeprefix("model/"): v for v in tf1.global_variables()}
            steps = tf1.get_variable("steps", [], tf.int32, tf1.zeros_initializer(), trainable=False)
            Step(variables, SHAPE | {"n_layer": layers}, (ROWS, BLOCK), SETTINGS, tf.float32, steps, None)
        called = [op.get_attr("f").name for op in graph.get_operations() if op.type.endswith("PartitionedCall")]
        assert len(called) > 20 * layers
        return set(called)

    assert len(kernels(1)) == len(kernels(4)) < 40


def clipped(gradients: dict) -> dict:
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients.values()))
    return {n: g * min(1, CLIP / norm) for n, g in gradients.items()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_step_are_those_of_gpt_2_simples_graph_and_of_adamw(rows, checkpointing):
    both, (ids, learned) = both_of(checkpointing=checkpointing), rows
    old = both.values()
    loss, gradients = both.session.run([both.loss, both.gradients], {both.x: ids, both.w: learned})
    mine, norm, _ = both.run([both.step.loss, both.step.norm, both.step.apply], ids, learned)
    assert mine == pytest.approx(loss, abs=1e-5)
    assert norm == pytest.approx(np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients.values())), rel=1e-5)
    new = both.values()
    for n, g in clipped(gradients).items():
        away = g / (np.abs(g) + ADAM_EPSILON)  # the first step's moments, corrected for their start at zero
        decay = 0.1 if n.endswith(("/w", "wte", "wpe")) else 0
        wanted = old[n] - RATE * (away + decay * old[n])
        seen = np.abs(g) > 1e-6  # where rounding does not decide the sign
        assert np.allclose(new[n][seen], wanted[seen], atol=1e-4), n
    assert np.allclose(new["wpe"][BLOCK:], old["wpe"][BLOCK:] * (1 - RATE * 0.1), atol=1e-7), "rows that no token read"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_documents_have_the_loss_and_the_gradients_of_each_alone(checkpointing):
    documents = random_documents([5, 6, 9, 4, 9, 3, 12], 4)
    packed, both = PackedDataset(documents, ROWS, BLOCK, 1, mask_documents=True), both_of(checkpointing=checkpointing)
    assert packed.num_rows == ROWS
    ids, learned = np.full((len(documents), 2 + 12), 7), np.zeros((len(documents), 1 + 12), np.float32)
    for i, document in enumerate(documents[i] for i in range(len(documents))):
        ids[i, : len(document) + 1], learned[i, : len(document)] = [END, *document], 1
    loss, gradients = both.session.run([both.loss, both.gradients], {both.x: ids, both.w: learned})
    mine, _ = both.session.run([both.step.loss, both.step.apply], both.fed(packed[1]))
    assert mine == pytest.approx(loss, abs=1e-5)
    moments = dict(zip(both.names, both.session.run(both.step.moments[0::2]), strict=True))
    for n, g in clipped(gradients).items():
        assert np.allclose(moments[n], (1 - BETAS[0]) * g, atol=1e-6), n


def test_sampled_ids_count_for_all_others_in_the_softmax(rows, monkeypatch):
    monkeypatch.setattr(vocabulary, "SAMPLED", sampled := 40)
    ids, learned = rows[0] // 2, rows[1]  # the lower half occurs
    both, others = both_of(used=np.arange(150)), 299 - np.arange(sampled)
    old = both.values()
    with both.session.graph.as_default():
        logits = tf.concat([both.logits[..., :150], tf.gather(both.logits, others, axis=-1) + np.log(150 / sampled)], 2)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=both.x[:, 1:], logits=logits)
        wanted = tf.reduce_sum(nats * both.w) / tf.reduce_sum(both.w)
        slopes = tf.gradients(wanted, [both.variables[n] for n in both.names])
        slopes = dict(zip(both.names, map(tf.convert_to_tensor, slopes), strict=True))
        wanted, slopes = both.session.run([wanted, slopes], {both.x: ids, both.w: learned})
    loss, _ = both.run([both.step.loss, both.step.apply], ids, learned, others=others)
    assert loss == pytest.approx(wanted, abs=1e-5)
    slopes["wte"], shift_slope = slopes["wte"][:150], slopes["wte"][150:].sum(axis=0)
    moments = dict(zip([*both.names, "shift"], both.session.run(both.step.moments[0::2]), strict=True))
    shared = clipped(slopes)
    scale = shared["wpe"].max() / slopes["wpe"].max()
    for n, g in (shared | {"shift": scale * shift_slope}).items():
        assert np.allclose(moments[n], (1 - BETAS[0]) * g, atol=1e-6), n
    shift, table = both.session.run([both.part.shift, both.part.table])
    assert np.allclose(shift, -SHIFT_LR_SCALE * RATE * np.sign(shift_slope), atol=1e-5)
    assert np.array_equal(both.values()["wte"], old["wte"])
    both.session.run(both.part.write)
    new = both.values()["wte"]
    assert np.array_equal(new, np.concatenate([table, old["wte"][150:] + shift]))
    both.session.run(both.part.write)
    assert np.array_equal(both.values()["wte"], new), "they move once"


def test_moments_are_running_means(rows):
    both, (ids, learned) = both_of(checkpointing=False), rows
    moments, gradients = [], []
    for _ in range(2):
        gradients.append(clipped(both.session.run(both.gradients, {both.x: ids, both.w: learned})))
        both.run(both.step.apply, ids, learned)
        moments = both.session.run(both.step.moments)
    first, second = moments[0::2], moments[1::2]
    for n, m, v in zip(both.names, first, second, strict=True):
        g = [step[n] for step in gradients]
        assert np.allclose(m, (1 - BETAS[0]) * (BETAS[0] * g[0] + g[1]), atol=1e-5), n
        assert np.allclose(v, (1 - BETAS[1]) * (BETAS[1] * g[0] ** 2 + g[1] ** 2), atol=1e-6), n


def test_accumulation_equals_the_large_batch(rows):
    ids, learned = rows
    large, small = both_of(checkpointing=False), both_of(rows=1, accumulate=ROWS)
    loss, _ = large.run([large.step.loss, large.step.apply], ids, learned)
    losses = 0.0
    for i in range(ROWS):
        end = small.step.apply if i == ROWS - 1 else small.step.accumulate
        losses += small.run([small.step.loss, end], ids[i : i + 1], learned[i : i + 1], total=learned.sum())[0]
    assert losses == pytest.approx(loss, abs=1e-5)
    for a, b in zip(large.session.run(large.step.moments), small.session.run(small.step.moments), strict=True):
        assert np.allclose(a, b, atol=1e-6)
    assert not any(s.any() for s in small.session.run(small.step.sums)), "the next step begins at zero"


def test_bfloat16_is_near_float32(rows):
    exact, fast = (
        both.run([both.step.loss, both.step.norm], *rows)
        for both in (both_of(checkpointing=False), both_of(kind=tf.bfloat16))
    )
    assert fast == pytest.approx(exact, rel=5e-3)


def test_dropout_drops_its_share_evenly_and_keeps_the_mean():
    with tf.Graph().as_default(), tf1.Session() as session:
        ones = tf.ones([64, 4096])
        first, other = session.run([drop(ones, 0.3, tf.constant(seed)) for seed in ((5, -7), (6, -7))])
    assert set(np.unique(first)) == {0, np.float32(1 / 0.7)}
    assert np.mean(first) == pytest.approx(1, abs=0.01)
    dropped, others = first == 0, other == 0
    assert dropped.mean(0).std() == pytest.approx(np.sqrt(0.3 * 0.7 / 64), rel=0.1), "columns are as random as rows"
    assert dropped.mean(1).std() == pytest.approx(np.sqrt(0.3 * 0.7 / 4096), rel=0.3)
    for shifted in (dropped[:, 1:] & dropped[:, :-1], dropped[1:] & dropped[:-1], dropped & others):
        assert shifted.mean() == pytest.approx(0.3**2, abs=0.005), "positions and seeds are independent"


def test_dropout_is_decided_by_its_seed_and_drops(rows):
    both, (ids, learned) = both_of(dropout=0.2, checkpointing=False), rows
    first, again, other = (both.run(both.step.loss, ids, learned, seed=s) for s in ((1, 2), (1, 2), (1, 3)))
    assert first == again != other
    loss = both.session.run(both.loss, {both.x: ids, both.w: learned})
    assert first != pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_under_dropout_is_that_of_the_loss_under_dropout(rows, checkpointing):
    (ids, learned), name = rows, "h1/mlp/c_fc/b"
    both = both_of(dropout=0.2, checkpointing=checkpointing)
    norm, _ = both.run([both.step.norm, both.step.apply], ids, learned)
    moment = both.session.run(both.step.moments[2 * both.names.index(name)])
    gradient = moment / (1 - BETAS[0]) * max(CLIP, norm)
    value, direction, losses = both.reset().values()[name], gradient / np.linalg.norm(gradient), []
    for sign in (1, -1):  # finite differences
        both.variables[name].load(value + sign * 0.05 * direction, both.session)
        losses.append(both.run(both.step.loss, ids, learned))
    assert (losses[0] - losses[1]) / 0.1 == pytest.approx(np.linalg.norm(gradient), rel=0.02)


def test_only_the_blocks_train_with_layers_transformer(rows):
    both, (ids, learned) = both_of(layers="transformer"), rows
    old = both.values()
    both.run(both.step.apply, ids, learned)
    changed = {n for n, v in both.values().items() if not np.array_equal(v, old[n])}
    assert changed == {n for n in both.names if n.startswith("h")}


def test_a_step_that_is_not_finite_changes_nothing(rows):
    both, (ids, learned) = both_of(checkpointing=False), rows
    broken = both.session.run(both.variables["h0/ln_1/g"])
    broken[0] = np.nan
    both.variables["h0/ln_1/g"].load(broken, both.session)
    old = both.values()
    loss, _ = both.run([both.step.loss, both.step.apply], ids, learned)
    assert np.isnan(loss)
    assert all(np.array_equal(v, old[n], equal_nan=True) for n, v in both.values().items())
    assert not any(m.any() for m in both.session.run(both.step.moments))
    assert both.session.run(both.step.steps) == 0


def test_the_cross_entropy_and_its_compiled_gradient_are_tensorflows():
    # In the default graph, because importing gpt-2-simple turns eager mode off
    logits = tf.random.stateless_normal([5, 64], [1, 2])
    labels, shares = np.array([0, 3, 49, 7, 6]), np.array([1, 2, 0, 0.5, 3], np.float32)
    offsets = np.repeat(np.float32([0, 1.5, -np.inf]), [50, 8, 6])
    nats = recomputed(token_nats)(logits, fixed=(labels.astype(np.int32), offsets))
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, (logits + offsets)[:, :58])
    slopes = [tf.convert_to_tensor(tf.gradients(y, logits, shares)[0]) for y in (nats, expected)]
    with tf1.Session() as session:
        nats, expected, (gradient, slope) = session.run([nats, expected, slopes])
    assert np.allclose(nats, expected, atol=1e-5)
    assert np.allclose(gradient, slope, atol=1e-6) and not gradient[:, 58:].any() and not gradient[2].any()


def test_where_xla_fails_on_a_gpu_the_plain_graph_has_the_same_loss(rows, monkeypatch, capsys):
    def fail(*_):
        raise tf.errors.InternalError(None, None, "libdevice not found\nat ./libdevice.10.bc")

    def measure(both: Both) -> list:
        return both.run([both.step.loss, both.step.norm], *rows)

    expected = measure(both_of(checkpointing=False))
    kernels.can_compile.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(models, "gpus", lambda: ["GPU:0"])
        assert kernels.can_compile()
        kernels.can_compile.cache_clear()
        with monkeypatch.context() as broken:
            broken.setattr(tf1.Session, "run", fail)
            assert not kernels.can_compile()
        plain = measure(Both().reset())
    kernels.can_compile.cache_clear()
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    printed = capsys.readouterr().out
    assert printed.count("XLA cannot compile for this GPU (libdevice not found): training uses") == 1
