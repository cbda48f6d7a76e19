"""GPT-2's training step in TensorFlow: the function and the variables of gpt-2-simple's graph, arranged for speed.

What is between two matrix products is compiled (`titlesmith.train.kernels`). Matrix products are in bfloat16 if
requested, with weights and sums in float32. A step is a function of rows, weights and seed alone, so that a training
can be repeated to the bit.

Shapes: N tokens (rows times block), D width, V vocabulary.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from titlesmith.train.kernels import Kernels, compiled, drop, f32, per_block, recomputed, token_nats
from titlesmith.train.loop import ADAM_EPSILON, BETAS, CLIP
from titlesmith.train.sampled_softmax import SHIFT_LR_SCALE, SampledVocabulary

tf1 = tf.compat.v1
LANES = 64  # the vocabulary is padded to a multiple: matrix products of odd widths take up to a third longer


class SampledSoftmax(SampledVocabulary):
    """Embeddings of the used ids in a separate table, in the current graph, so that a step computes only with these.

    The variable ``table`` (used ids, D) trains instead of the model's ``wte`` (vocabulary, D); ``shift`` (D,) is how
    far the other ids have moved since ``write``. ``others`` is the placeholder of the sampled ids. The operations
    ``read`` and ``write`` copy ``wte`` to the table, and the table and the shift to ``wte``.
    """

    def __init__(self, wte: tf.Variable, used: np.ndarray):
        super().__init__(wte.shape[0], used)
        width = wte.shape[1]
        self.others = tf1.placeholder(tf.int32, [self.num_sampled])
        with tf1.variable_scope("titlesmith", reuse=tf1.AUTO_REUSE):
            self.table = tf1.get_variable("wte", [len(used), width], trainable=False)
            self.shift = tf1.get_variable("shift", [width], initializer=tf1.zeros_initializer(), trainable=False)
        self.read = tf.group(tf1.assign(self.table, tf.gather(wte, used)), self.shift.initializer)
        written = tf1.assign(wte, tf.tensor_scatter_nd_update(wte + self.shift, used[:, None], self.table))
        with tf.control_dependencies([written]):
            self.write = tf1.assign(self.shift, tf.zeros([width])).op


class Step:
    """One step of AdamW (Loshchilov and Hutter 2019), of one or several calls, on rows of a fixed shape.

    ``variables`` are the model's by name without ``model/``, ``shape`` the rows and block of a call, ``settings`` those
    of notebook 03, ``kind`` the type of the operands of matrix products, ``steps`` the variable that counts the steps.

    Placeholders: ``ids position_ids labels weights`` for the arrays of a `Batch`, of which ids and labels are rows of
    the table of a sampled softmax; ``total`` and ``rate`` for the step's sum of weights and its learning rate; ``seed``
    (2,) for a call's dropout. Variables: ``moments`` of the optimizer, to save; ``sums`` of the accumulation, zero
    between steps. To run: ``loss``, a call's part of the step's loss; ``norm`` of the gradient before clipping;
    ``accumulate`` or ``apply``, to end a call.
    """

    def __init__(
        self, variables, hyperparameters: dict, shape, settings: dict, kind, steps, sampled: SampledSoftmax | None
    ):
        self.steps, self.settings, self.kind, self.variables = steps, settings, kind, dict(variables)
        self._kernels = Kernels(*shape, hyperparameters, settings["dropout"], kind)
        self._layers = hyperparameters["n_layer"]
        if sampled:
            self.variables |= {"wte": sampled.table, "shift": sampled.shift}
        self.ids, self.position_ids, self.labels = (tf1.placeholder(tf.int32, shape) for _ in range(3))
        self.weights = tf1.placeholder(tf.float32, shape)
        self.total, self.rate = tf1.placeholder(tf.float32, []), tf1.placeholder(tf.float32, [])
        self.seed = tf1.placeholder(tf.int32, [2])
        self._document_ids = tf.cumsum(tf.cast(tf.equal(self.position_ids, 0), tf.int32), 1)
        model = {}
        for n, v in self.variables.items():
            if n.endswith("/w"):  # matrices are cast to the type of their products once
                model[n] = tf.cast(tf.reshape(v, v.shape[1:]), kind)
            elif n.endswith(("/b", "/g")):
                model[n] = per_block(v, self.ids.shape.num_elements())
            else:
                model[n] = tf.convert_to_tensor(v)
        trained = [n for n in self.variables if n.startswith("h") or settings["layers"] == "all"]
        self.loss, gradients = self._gradients(trained, model, variables["wte"], sampled)
        self._update({n: gradients[n] for n in trained})

    def _gradients(self, trained: list[str], model: dict, wte, sampled) -> tuple[tf.Tensor, dict]:
        """The loss, and its gradients by name, those of matrices in the type of the products."""
        embedded, x = self._hidden(model)

        # The head: the embeddings, those of sampled ids, and padding, with what is added to the logits of each
        tables, added = [model["wte"]], [0.0]
        if sampled:
            tables, added = [*tables, tf.gather(wte, sampled.others) + model["shift"]], [0.0, np.log(sampled.scale)]
        tables.append(tf.zeros([-sum(t.shape[0] for t in tables) % LANES, x.shape[1]]))
        offsets = np.repeat(np.float32([*added, -np.inf]), [t.shape[0] for t in tables])
        head = tf.concat([tf.cast(t, self.kind) for t in tables], 0)

        logits = tf.matmul(x, head, transpose_b=True)
        nats = recomputed(token_nats)(logits, fixed=(tf.reshape(self.labels, [-1]), offsets))
        loss = tf.reduce_sum(nats * tf.reshape(self.weights, [-1])) / self.total

        sources = {n: model[n] for n in trained if n not in ("wte", "shift")}
        if "wte" in trained:
            sources |= {"head": head, "embedded": embedded}
        gradients = dict(zip(sources, tf.gradients(loss, list(sources.values())), strict=True))
        gradients = {n: tf.convert_to_tensor(g) for n, g in gradients.items()}
        gradients = {n: tf.reduce_sum(g, 0) if n.endswith(("/b", "/g")) else g for n, g in gradients.items()}
        if "wte" in trained:
            dhead, size = f32(gradients.pop("head")), tables[0].shape[0]
            if sampled:
                gradients["shift"] = tf.reduce_sum(dhead[size : size + sampled.others.shape[0]], 0)
            ids = tf.reshape(self.ids, [-1, 1])
            gradients["wte"] = tf.tensor_scatter_nd_add(dhead[:size], ids, gradients.pop("embedded"))
        return loss, gradients

    def _hidden(self, model: dict) -> tuple[tf.Tensor, tf.Tensor]:
        """The embedded tokens, and the normalized output of the last block, (N, D)."""
        ids, position_ids = tf.reshape(self.ids, [-1]), tf.reshape(self.position_ids, [-1])
        embedded = tf.gather(model["wte"], ids)
        h = drop(embedded + tf.gather(model["wpe"], position_ids), self.settings["dropout"], self._seed(0))
        o, bias = tf.zeros(h.shape, self.kind), tf.zeros_like(model["ln_f/b"])
        run = self._checkpointed_block if self.settings["checkpointing"] else self._block
        for layer in range(self._layers):
            weights = {n.partition("/")[2]: w for n, w in model.items() if n.startswith(f"h{layer}/")}
            h, o, bias = run(h, o, bias, weights, layer)
        x = self._kernels.add_norm(h, o, bias, model["ln_f/g"], model["ln_f/b"], fixed=[self._seed(1)])[1]
        return embedded, x

    def _seed(self, number: int) -> tf.Tensor:
        """A different seed for each use of dropout."""
        return self.seed + tf.constant([0, number])

    def _block(self, h, o, bias, w: dict, layer: int):
        """A transformer block from the stream ``h``, the output ``o`` of the layer before and its bias to the same."""
        k, seeds = self._kernels, [self._seed(10 * (layer + 1) + i) for i in range(3)]
        h, x = k.add_norm(h, o, bias, w["ln_1/g"], w["ln_1/b"], fixed=seeds[:1])
        queries, keys, values = k.heads(tf.matmul(x, w["attn/c_attn/w"]), w["attn/c_attn/b"])
        scores = tf.matmul(queries, keys, transpose_b=True)
        attention = k.attention(scores, fixed=(self._document_ids, seeds[1]))
        heads = tf.transpose(tf.matmul(attention, values), [0, 2, 1, 3])
        o = tf.matmul(tf.reshape(heads, h.shape), w["attn/c_proj/w"])
        h, x = k.add_norm(h, o, w["attn/c_proj/b"], w["ln_2/g"], w["ln_2/b"], fixed=seeds[2:])
        m = k.gelu(tf.matmul(x, w["mlp/c_fc/w"]), w["mlp/c_fc/b"])
        return h, tf.matmul(m, w["mlp/c_proj/w"]), w["mlp/c_proj/b"]

    def _checkpointed_block(self, h, o, bias, w: dict, layer: int):
        """`_block` that keeps only its inputs and recomputes the rest backward (Chen et al. 2016)."""

        @tf.custom_gradient
        def run(*inputs):
            def block(h, o, bias, *weights):
                return self._block(h, o, bias, dict(zip(w, weights, strict=True)), layer)

            def backward(*dys):
                with tf.control_dependencies(dys):  # not before, and not shared with forward
                    xs = [tf.identity(x) for x in inputs]
                return tf.gradients(block(*xs), xs, dys)

            return block(*inputs), backward

        return run(h, o, bias, *w.values())

    def _update(self, gradients: dict) -> None:
        # Variables of the optimizer: two moments, and a sum for several calls a step
        sums, moments = {}, {}
        zero = tf1.placeholder_with_default(0.0, [])  # a constant would be kept for each variable, in full size
        with tf1.variable_scope("titlesmith", reuse=tf1.AUTO_REUSE):
            for n in gradients:
                zeros = {"initializer": tf.fill(self.variables[n].shape, zero), "trainable": False}
                moments[n] = [tf1.get_variable(f"{n}/{m}", **zeros) for m in "mv"]
                if self.settings["accumulate"] > 1:
                    sums[n] = tf1.get_variable(f"{n}/sum", **zeros)
        self.moments, self.sums = [m for pair in moments.values() for m in pair], list(sums.values())

        # Gradients in the variables' shapes, those of earlier calls added
        gradients = {n: tf.reshape(g, self.variables[n].shape) for n, g in gradients.items()}
        self.accumulate = tf.group(*(tf1.assign_add(sums[n], f32(g)) for n, g in gradients.items() if sums))
        if sums:
            gradients = {n: f32(g) + sums[n] for n, g in gradients.items()}

        # The norm to clip; the shift of a sampled softmax is not a weight of the model and does not count
        squares = compiled(lambda g: tf.reduce_sum(f32(g) ** 2, -1))  # of each row: XLA uses all cores then
        self.norm = tf.sqrt(tf.add_n([tf.reduce_sum(squares(g)) for n, g in gradients.items() if n != "shift"]))
        scale = CLIP / tf.maximum(self.norm, CLIP)
        finite = tf.math.is_finite(self.norm + self.loss)

        # The updates, one after the other, so that only one variable's new values are in memory
        number = f32(self.steps + 1)
        adamw = {True: compiled(_adamw(self.settings["weight_decay"])), False: compiled(_adamw(0.0))}
        updates: list[tf.Operation] = []
        for n, g in gradients.items():
            states = (self.variables[n], *moments[n])
            with tf.control_dependencies(updates):
                values = [tf.convert_to_tensor(variable) for variable in states]
                rate = SHIFT_LR_SCALE * self.rate if n == "shift" else self.rate
                new = adamw[n.endswith(("/w", "wte", "wpe"))](*values, g, scale, rate, number, finite)
                updates = [tf1.assign(variable, value).op for variable, value in zip(states, new, strict=True)]
        with tf.control_dependencies(updates):
            cleared = [tf1.assign(s, tf.zeros(s.shape)) for s in self.sums]
            self.apply = tf.group(tf1.assign_add(self.steps, tf.cast(finite, tf.int32)), *cleared)


def _adamw(decay: float) -> Callable:
    def update(p, m, v, g, scale, rate, number, finite):
        g = f32(g) * scale
        new_m, new_v = m + (g - m) * (1 - BETAS[0]), v + (g * g - v) * (1 - BETAS[1])
        change = new_m / (1 - BETAS[0] ** number) / (tf.sqrt(new_v / (1 - BETAS[1] ** number)) + ADAM_EPSILON)
        new_p = p - rate * (change + decay * p)
        return tf.where(finite, new_p, p), tf.where(finite, new_m, m), tf.where(finite, new_v, v)

    return update
