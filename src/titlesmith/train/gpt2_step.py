"""GPT-2's training step in TensorFlow: the function and the variables of gpt-2-simple's graph, arranged for speed.

What is between two matrix products is compiled (`titlesmith.train.kernels`). Matrix products are in bfloat16 if
requested, with weights and sums in float32. A step is a function of rows, weights and seed alone, so that a training
can be repeated to the bit.

Shapes: N tokens (rows times block), D width, V vocabulary.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from titlesmith.train import kernels as xla
from titlesmith.train.kernels import Kernels, drop, f32, sum_in_blocks, token_nats
from titlesmith.train.loop import ADAM_EPSILON, BETAS, CLIP
from titlesmith.train.sampled_softmax import SHIFT_LR_SCALE, SampledVocabulary

tf1 = tf.compat.v1
LANES = 64  # the vocabulary is padded to a multiple: matrix products of odd widths take up to a third longer


class SampledSoftmax(SampledVocabulary):
    """Embeddings of the used ids in a separate table, in the current graph, so that a step computes only with these.

    ``wte`` are the model's embeddings, (vocabulary, D), ``used`` the sorted used ids.

    Attributes
    ----------
    table, shift
        Variables: (used ids, D), trained instead of ``wte``; (D,), how far the other ids have moved since ``write``.
    others
        Placeholder: the sampled ids.
    read, write
        Operations that copy ``wte`` to the table, and the table and the shift to ``wte``.
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
    """One step of AdamW (Loshchilov and Hutter 2019) on rows of a fixed shape.

    Weight decay applies to matrices only. The gradient is that of the mean loss over all predictions of a step, which
    may have several calls. ``variables`` are the model's by name without ``model/``, ``shape`` the rows and block of a
    call's ids, ``settings`` those of notebook 03, ``kind`` the type of the operands of matrix products, ``steps`` the
    variable that counts the applied steps.

    Attributes
    ----------
    ids, position_ids, labels, weights
        Placeholders for the arrays of a `Batch`; with a sampled softmax, ids and labels are rows of its table.
    total, rate, seed
        Placeholders: the step's sum of weights, learning rate, and seed (2,) of a call's dropout.
    moments, sums
        Variables of the optimizer to save, and of the accumulation, which are zero between steps.
    loss, norm, accumulate, apply
        To run: a call's part of the step's loss, the gradient's norm before clipping, and the two ways to end a call.
    """

    def __init__(
        self, variables, hyperparameters: dict, shape, settings: dict, kind, steps, sampled: SampledSoftmax | None
    ):
        self.steps, self.hyperparameters, self.settings, self.kind = steps, hyperparameters, settings, kind
        self.variables, (rows, block) = dict(variables), shape
        if sampled:
            self.variables |= {"wte": sampled.table, "shift": sampled.shift}
        self.ids, self.position_ids, self.labels = (tf1.placeholder(tf.int32, [rows, block]) for _ in range(3))
        self.weights = tf1.placeholder(tf.float32, [rows, block])
        self.total, self.rate = tf1.placeholder(tf.float32, []), tf1.placeholder(tf.float32, [])
        self.seed = tf1.placeholder(tf.int32, [2])
        self._document_ids = tf.cumsum(tf.cast(tf.equal(self.position_ids, 0), tf.int32), 1)
        # Matrices are cast to the type of their products once; their gradients are summed in float32
        model = {
            n: tf.cast(tf.reshape(v, v.shape[1:]), kind) if n.endswith("/w") else tf.convert_to_tensor(v)
            for n, v in self.variables.items()
        }
        kernels = Kernels(rows, block, hyperparameters, settings["dropout"], kind)
        trained = [n for n in self.variables if n.startswith("h") or settings["layers"] == "all"]
        self.loss, gradients = self._gradients(trained, kernels, model, variables["wte"], sampled)
        self._update({n: gradients[n] for n in trained})

    def _gradients(self, trained, kernels, model, wte, sampled) -> tuple[tf.Tensor, dict]:
        embedded, x = self._hidden(kernels, model)

        # The head: the embeddings, those of sampled ids, and padding, with what is added to the logits of each
        tables, added = [model["wte"]], [0.0]
        if sampled:
            tables, added = [*tables, tf.gather(wte, sampled.others) + model["shift"]], [0.0, np.log(sampled.scale)]
        tables.append(tf.zeros([-sum(t.shape[0] for t in tables) % LANES, x.shape[1]]))
        offsets = np.repeat(np.float32([*added, -np.inf]), [t.shape[0] for t in tables])
        head = tf.concat([tf.cast(t, self.kind) for t in tables], 0)

        logits = tf.matmul(x, head, transpose_b=True)
        nats = xla.recomputed(token_nats)(logits, fixed=(tf.reshape(self.labels, [-1]), offsets))
        loss = tf.reduce_sum(nats * tf.reshape(self.weights, [-1])) / self.total

        sources = {n: model[n] for n in trained if n not in ("wte", "shift")}
        if "wte" in trained:
            sources |= {"head": head, "embedded": embedded}
        gradients = dict(zip(sources, tf.gradients(loss, list(sources.values())), strict=True))
        gradients = {n: tf.convert_to_tensor(g) for n, g in gradients.items()}
        if "wte" in trained:
            # The head's is the largest gradient by far, so it stays in the type of the products: what each input id
            # contributes is summed in float32 first and added once
            ids, rows = tf.unique(tf.reshape(self.ids, [-1]))
            sums = tf.math.unsorted_segment_sum(gradients.pop("embedded"), rows, tf.size(ids))
            dhead = gradients.pop("head")
            if sampled:
                first = sampled.table.shape[0]
                gradients["shift"] = tf.reduce_sum(f32(dhead[first : first + sampled.others.shape[0]]), 0)
            gradients["wte"] = tf.tensor_scatter_nd_add(dhead, ids[:, None], tf.cast(sums, self.kind))
        return loss, gradients

    def _hidden(self, kernels, model) -> tuple[tf.Tensor, tf.Tensor]:
        """The embedded tokens, and the normalized output of the last block, (N, D)."""
        ids, position_ids = tf.reshape(self.ids, [-1]), tf.reshape(self.position_ids, [-1])
        embedded = tf.gather(model["wte"], ids)
        h = drop(embedded + tf.gather(model["wpe"], position_ids), kernels.dropout, self._seed(0))
        o, bias = tf.zeros(h.shape, self.kind), tf.zeros(h.shape[1:])
        run = self._checkpointed_block if self.settings["checkpointing"] else self._block
        for layer in range(self.hyperparameters["n_layer"]):
            weights = {n.partition("/")[2]: w for n, w in model.items() if n.startswith(f"h{layer}/")}
            h, o, bias = run(kernels, h, o, bias, weights, layer)
        vectors = (bias, model["ln_f/g"], model["ln_f/b"])
        return embedded, kernels.add_norm(h, o, vectors=vectors, fixed=(self._seed(1),))[1]

    def _seed(self, number: int) -> tf.Tensor:
        """A different seed for each use of dropout."""
        return self.seed + tf.constant([0, number])

    def _block(self, k, h, o, bias, w: dict, layer: int):
        """A transformer block from the stream ``h``, the output ``o`` of the layer before and its bias to the same."""
        seeds = [self._seed(10 * (layer + 1) + i) for i in range(3)]
        h, x = k.add_norm(h, o, vectors=(bias, w["ln_1/g"], w["ln_1/b"]), fixed=seeds[:1])
        queries, keys, values = k.heads(tf.matmul(x, w["attn/c_attn/w"]), vectors=[w["attn/c_attn/b"]])
        scores = tf.matmul(queries, keys, transpose_b=True)
        attention = k.attention(scores, fixed=(self._document_ids, seeds[1]))
        o = tf.matmul(k.merge(tf.matmul(attention, values)), w["attn/c_proj/w"])
        h, x = k.add_norm(h, o, vectors=(w["attn/c_proj/b"], w["ln_2/g"], w["ln_2/b"]), fixed=seeds[2:])
        m = k.gelu(tf.matmul(x, w["mlp/c_fc/w"]), vectors=[w["mlp/c_fc/b"]])
        return h, tf.matmul(m, w["mlp/c_proj/w"]), w["mlp/c_proj/b"]

    def _checkpointed_block(self, k, h, o, bias, w: dict, layer: int):
        """`_block` that keeps only its inputs and recomputes the rest backward (Chen et al. 2016)."""
        names = list(w)

        @tf.custom_gradient
        def run(h, o, bias, *weights):
            def backward(*dys):
                with tf.control_dependencies(dys):  # not before, and not shared with forward
                    xs = [tf.identity(x) for x in (h, o, bias, *weights)]
                ys = self._block(k, *xs[:3], dict(zip(names, xs[3:], strict=True)), layer)
                return tf.gradients(ys, xs, dys)

            return self._block(k, h, o, bias, dict(zip(names, weights, strict=True)), layer), backward

        return run(h, o, bias, *w.values())

    def _update(self, gradients: dict) -> None:
        # Variables of the optimizer: two moments, and a sum for several calls a step
        sums, moments = {}, {}
        zero = tf1.placeholder_with_default(0.0, [])  # a constant would be kept for each variable, in full size
        with tf1.variable_scope("titlesmith", reuse=tf1.AUTO_REUSE):
            for n, v in self.variables.items():
                if n in gradients:
                    zeros = {"initializer": tf.fill(v.shape, zero), "trainable": False}
                    moments[n] = [tf1.get_variable(f"{n}/{m}", **zeros) for m in "mv"]
                    if self.settings["accumulate"] > 1:
                        sums[n] = tf1.get_variable(f"{n}/sum", **zeros)
        self.moments, self.sums = [m for pair in moments.values() for m in pair], list(sums.values())

        # Gradients in the variables' shapes, those of earlier calls added
        shapes = {n: v.shape for n, v in self.variables.items()}
        gradients = {n: tf.reshape(g[: shapes[n][0]] if n == "wte" else g, shapes[n]) for n, g in gradients.items()}
        self.accumulate = tf.group(*(tf1.assign_add(sums[n], f32(g)) for n, g in gradients.items() if sums))
        if sums:
            gradients = {n: f32(g) + sums[n] for n, g in gradients.items()}

        # The norm to clip; the shift of a sampled softmax is not a weight of the model and does not count
        squares = xla.compiled(lambda g: sum_in_blocks(tf.reshape(f32(g) ** 2, [-1, g.shape[-1]])))
        self.norm = tf.sqrt(tf.add_n([tf.reduce_sum(squares(g)) for n, g in gradients.items() if n != "shift"]))
        scale = CLIP / tf.maximum(self.norm, CLIP)
        finite = tf.math.is_finite(self.norm + self.loss)

        # The updates, one after the other, so that only one variable's new values are in memory
        number = f32(self.steps + 1)
        adamw = {True: xla.compiled(_adamw(self.settings["weight_decay"])), False: xla.compiled(_adamw(0.0))}
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
