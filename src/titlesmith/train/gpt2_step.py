"""GPT-2's training step in TensorFlow: the function and the variables of gpt-2-simple's graph, arranged for speed.

What lies between two matrix products is one function, compiled by XLA, forward and backward, so that memory is read and
written once instead of a dozen times. Matrix products take bfloat16 where asked, with float32 weights and sums behind
them. A step is a function of rows, weights and seed alone, so that a training repeats to the bit.

Shapes: N places (rows times block), D width, H heads, V vocabulary.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from titlesmith.train.sampled_softmax import SLOWER, Part

tf1 = tf.compat.v1
EPSILON = 1e-5  # of the normalizations, as in GPT-2
LANES = 64  # the vocabulary is padded to a multiple: matrix products of odd widths take up to a third longer
LOGITS = 2**26  # so many are computed at once where rows are measured
GELU = float(np.sqrt(2 / np.pi))
BETAS, TINY, CLIP = (0.9, 0.999), 1e-8, 1.0  # of AdamW, and the largest norm of a gradient


def fused(function: Callable) -> Callable:
    """Compiles a function of tensors into one kernel, once for all calls with the same shapes and types.

    A call of what `tf.function` makes would be traced, and compiled, again for each op that a gradient is taken of.
    """
    whole, traced = tf.function(function, jit_compile=True, autograph=False), {}

    def call(*tensors):
        tensors = list(map(tf.convert_to_tensor, tensors))
        kinds = tuple(tf.TensorSpec(x.shape, x.dtype) for x in tensors)
        if kinds not in traced:
            traced[kinds] = whole.get_concrete_function(*kinds)
        return traced[kinds](*tensors)

    return call


def f32(x: tf.Tensor) -> tf.Tensor:
    """A tensor in float32."""
    return tf.cast(x, tf.float32)


def fewer(x: tf.Tensor) -> tf.Tensor:
    """Sums of 32 rows each of ``x`` (N, D), and of the rest, (N / 32, D).

    The first stage of a sum over all rows, which XLA alone would take on one core.
    """
    x = tf.pad(x, [[0, -x.shape[0] % 32], [0, 0]])
    return tf.reduce_sum(tf.reshape(x, [-1, 32, x.shape[-1]]), 1)


def drop(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Dropout (Srivastava et al. 2014), the same for the same ``seed`` (2,), so that backward draws the same again.

    The random bits are a hash of place and seed, lowbias32 (Wellons 2018) twice: a few operations on integers in the
    kernel around it, where TensorFlow's own generators take hundreds of times as long on a processor.
    """
    if not rate:
        return x
    place, key = tf.range(x.shape.num_elements()), tf.bitcast(seed, tf.uint32)
    bits = _hash(_hash(tf.bitcast(place, tf.uint32) + key[0]) ^ key[1])
    kept = tf.reshape(bits >= int(rate * 2**32), x.shape)
    return tf.where(kept, x / (1 - rate), tf.zeros_like(x))


def _hash(bits: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32))) * tf.constant(factor, tf.uint32)
    return bits ^ tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32))


class Functions:
    """What lies between the matrix products, each with its gradient.

    Parameters
    ----------
    rows, block
        Shape of the ids.
    hyperparameters
        ``n_embd n_head`` and the others of hparams.json.
    dropout
        Share of activations that are set to zero.
    kind
        Type of the operands of matrix products.
    """

    def __init__(self, rows: int, block: int, hyperparameters: dict, dropout: float, kind: tf.DType):
        self.rows, self.block, self.dropout, self.kind = rows, block, dropout, kind
        self.count, self.width = hyperparameters["n_head"], hyperparameters["n_embd"] // hyperparameters["n_head"]
        self._normal_forward, self._normal_backward = fused(self._add_norm), fused(self._add_norm_gradient)
        self._heads_forward, self._heads_backward = fused(self._heads), fused(self._heads_gradient)
        self._weights_forward, self._weights_backward = fused(self._weights), fused(self._weights_gradient)
        self._gelu_forward, self._gelu_backward = fused(self._gelu), fused(self._gelu_gradient)
        self._merge_forward, self._merge_backward = fused(self._merge), fused(self._merge_gradient)

    @staticmethod
    def _normal(h):
        h = h - tf.reduce_mean(h, -1, keepdims=True)
        scale = tf.math.rsqrt(tf.reduce_mean(h * h, -1, keepdims=True) + EPSILON)
        return h * scale, scale

    def _add_norm(self, h, o, bias, gain, offset, seed):
        h += drop(f32(o) + bias, self.dropout, seed)
        return h, tf.cast(self._normal(h)[0] * gain + offset, self.kind)

    def _add_norm_gradient(self, h, gain, seed, dh, dx):
        dx, (y, scale) = f32(dx), self._normal(h)
        dy = dx * gain
        mean, along = tf.reduce_mean(dy, -1, keepdims=True), tf.reduce_mean(dy * y, -1, keepdims=True)
        dh += (dy - mean - y * along) * scale
        do = drop(dh, self.dropout, seed)
        return dh, tf.cast(do, self.kind), *(tf.reduce_sum(t, 0) for t in (do, dx * y, dx))

    def add_norm(self, h, o, bias, gain, offset, seed):
        """Adds a layer's output ``o`` (N, D) and its bias to the stream ``h`` (N, D), and normalizes the sum.

        Returns the new stream, in float32, and its layer normalization (Ba et al. 2016).
        """

        @tf.custom_gradient
        def run(h, o, bias, gain, offset):
            new, x = self._normal_forward(h, o, bias, gain, offset, seed)
            return (new, x), lambda dh, dx: self._normal_backward(new, gain, seed, dh, dx)

        return run(h, o, bias, gain, offset)

    def _heads(self, c, bias):
        c = tf.cast(f32(c) + bias, self.kind)
        c = tf.reshape(c, [self.rows, self.block, 3, self.count, self.width])
        q, k, v = tf.unstack(tf.transpose(c, [2, 0, 3, 1, 4]))
        return q * tf.cast(self.width**-0.5, self.kind), k, v

    def _heads_gradient(self, dq, dk, dv):
        dc = tf.stack([dq * tf.cast(self.width**-0.5, self.kind), dk, dv])
        dc = tf.reshape(tf.transpose(dc, [1, 3, 0, 2, 4]), [-1, 3 * self.count * self.width])
        return dc, tf.reduce_sum(fewer(f32(dc)), 0)

    def heads(self, c, bias):
        """Queries, scaled, keys and values (rows, H, block, D / H) of ``c`` (N, 3 D)."""

        @tf.custom_gradient
        def run(c, bias):
            return self._heads_forward(c, bias), self._heads_backward

        return run(c, bias)

    def _weights(self, scores, until, seed):
        place = tf.range(self.block)
        before = (place <= place[:, None]) & (place[:, None] < until[:, None, None, :])
        weights = tf.nn.softmax(tf.where(before, f32(scores), -np.inf))
        return tf.cast(weights, self.kind), tf.cast(drop(weights, self.dropout, seed), self.kind)

    def _weights_gradient(self, weights, seed, dweights):
        weights, dweights = f32(weights), drop(f32(dweights), self.dropout, seed)
        dscores = weights * (dweights - tf.reduce_sum(weights * dweights, -1, keepdims=True))
        return tf.cast(dscores, self.kind)

    def weights(self, scores, until, seed):
        """Attention weights (rows, H, block, block): softmax over what is before a place on its path."""

        @tf.custom_gradient
        def run(scores):
            kept, dropped = self._weights_forward(scores, until, seed)
            return dropped, lambda dweights: self._weights_backward(kept, seed, dweights)

        return run(scores)

    def _merge(self, a):
        return tf.reshape(tf.transpose(a, [0, 2, 1, 3]), [-1, self.count * self.width])

    def _merge_gradient(self, da):
        return tf.transpose(tf.reshape(da, [self.rows, self.block, self.count, self.width]), [0, 2, 1, 3])

    def merge(self, a):
        """Heads (rows, H, block, D / H) side by side again, (N, D)."""

        @tf.custom_gradient
        def run(a):
            return self._merge_forward(a), self._merge_backward

        return run(a)

    def _gelu(self, u, bias):
        x = f32(u) + bias
        return tf.cast(0.5 * x * (1 + tf.tanh(GELU * (x + 0.044715 * x * x * x))), self.kind)

    def _gelu_gradient(self, u, bias, dy):
        x, dy = f32(u) + bias, f32(dy)
        t = tf.tanh(GELU * (x + 0.044715 * x * x * x))
        dx = dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU * (1 + 3 * 0.044715 * x * x))
        return tf.cast(dx, self.kind), tf.reduce_sum(fewer(dx), 0)

    def gelu(self, u, bias):
        """The gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016) of ``u`` (N, 4 D) + bias."""

        @tf.custom_gradient
        def run(u, bias):
            return self._gelu_forward(u, bias), lambda dy: self._gelu_backward(u, bias, dy)

        return run(u, bias)


def log_sum_exp(logits, offsets):
    """Logarithm of the sum of the exponentials of logits (N, V) and their offsets (V,), (N, 1), in float32."""
    logits = f32(logits) + offsets
    highest = tf.reduce_max(logits, -1, keepdims=True)
    return highest + tf.math.log(tf.reduce_sum(tf.exp(logits - highest), -1, keepdims=True))


def cross_entropy(logits, places, labels, shares, offsets):
    """Loss of predictions, and its gradient.

    Parameters
    ----------
    logits
        (N, V padded), of any type.
    places, labels, shares
        Of each prediction: the row of ``logits`` that makes it, what was to be predicted, and its part in the loss; no
        two have both the same place and the same label.
    offsets
        What is added to each column of ``logits``, (V padded,), float32; 0 where labels are.

    Returns
    -------
    tuple of tensors
        The sum of the predictions' nats times their shares, and its gradient with respect to ``logits``, in their type.
    """
    at, kind = tf.stack([places, labels], 1), logits.dtype

    @fused
    def softmax(logits, shares, offsets):
        total = log_sum_exp(logits, offsets)
        return total[:, 0], tf.cast(tf.exp(f32(logits) + offsets - total) * shares[:, None], kind)

    whole = tf.math.unsorted_segment_sum(shares, places, logits.shape[0])
    total, gradient = softmax(logits, whole, offsets)
    nats = tf.gather(total, places) - f32(tf.gather_nd(logits, at))
    # In float32 up to the difference: what is nearly certain has a gradient of nearly nothing
    here = tf.exp(-nats) * tf.gather(whole, places) - shares
    return tf.reduce_sum(nats * shares), tf.tensor_scatter_nd_update(gradient, at, tf.cast(here, kind))


class Step:
    """One step of AdamW (Loshchilov and Hutter 2019) on rows of a fixed shape.

    Weight decay is decoupled and falls on matrices alone, not on biases and normalizations. The gradient is that of the
    mean loss over all learned tokens of a step, however many calls they are spread over.

    Parameters
    ----------
    variables
        The model's, by name without ``model/``.
    hyperparameters
        As in hparams.json.
    shape
        Rows and block of a call's ids.
    settings
        ``dropout``, ``weight_decay``, ``accumulate`` (calls a step), ``layers`` (all, or transformer for the blocks
        alone), ``checkpointing`` (activations of a block are computed again rather than kept).
    kind
        Type of the operands of matrix products.
    steps
        Counts the steps that were applied.
    part
        The part of the vocabulary that trains, if not all.

    Attributes
    ----------
    ids, labels
        Placeholders; where a part trains, of rows of its table.
    moments, sums
        Variables of the optimizer to save, and of the accumulation, which are zero between steps.
    loss, norm, accumulate, apply
        What to run: the share of a call in the step's loss, the gradient's norm before clipping, and the two ways to
        end a call.
    nats
        What to run to measure rows: the sum of their nats by weight, over the whole vocabulary (``ids`` and ``labels``
        are the vocabulary's) and without dropout.
    """

    def __init__(self, variables, hyperparameters: dict, shape, settings: dict, kind, steps, part: Part | None = None):
        self.steps, self.hyperparameters, self.settings, self.kind = steps, hyperparameters, settings, kind
        self.variables, (rows, block) = dict(variables), shape
        if part:
            self.variables |= {"wte": part.table, "shift": part.shift}
        self.ids, self.positions, self.until = (tf1.placeholder(tf.int32, [rows, block]) for _ in range(3))
        self.places, self.labels = (tf1.placeholder(tf.int32, [rows, None]) for _ in range(2))
        self.learned = tf1.placeholder(tf.float32, [rows, None])
        self.total = tf1.placeholder(tf.float32, [])  # predictions learned in the whole step
        self.rate = tf1.placeholder(tf.float32, [])
        self.seed = tf1.placeholder(tf.int32, [2])  # of dropout in this call
        # Matrices once in the type of their products; gradients come in that type and are summed in float32.
        weights = {
            n: tf.cast(tf.reshape(v, v.shape[1:]), kind) if n.endswith("/w") else tf.convert_to_tensor(v)
            for n, v in self.variables.items()
        }
        learned = tf.where(self.learned > 0)  # rows are filled up with predictions that are not
        places = tf.gather_nd(self.places + block * tf.range(rows)[:, None], learned)
        predictions = places, tf.gather_nd(self.labels, learned), tf.gather_nd(self.learned, learned)
        functions = Functions(rows, block, hyperparameters, settings["dropout"], kind)
        trained = [n for n in self.variables if n.startswith("h") or settings["layers"] == "all"]
        self.loss, gradients = self._gradients(trained, functions, weights, predictions, variables["wte"], part)
        if settings["dropout"]:
            functions = Functions(rows, block, hyperparameters, 0.0, kind)
        self.nats = self._nats(functions, weights | {"wte": variables["wte"]}, predictions)
        self._update({n: gradients[n] for n in trained})

    def _gradients(self, trained, functions, weights, predictions, whole, part):
        kind, width, inputs = self.kind, self.hyperparameters["n_embd"], tf.reshape(self.ids, [-1])
        begin, x = self._hidden(functions, weights)
        head, each = [weights["wte"]], [0]  # tables of the softmax, and what is added to the logits of each
        if part:
            head, each = [*head, tf.gather(whole, part.others) + weights["shift"]], [*each, np.log(part.scale)]
        head.append(tf.zeros([-sum(t.shape[0] for t in head) % LANES, width]))
        offsets = np.repeat(np.float32([*each, -np.inf]), [t.shape[0] for t in head])
        head = tf.concat([tf.cast(t, kind) for t in head], 0)
        logits = tf.matmul(x, head, transpose_b=True)
        places, labels, counts = predictions
        loss, dlogits = cross_entropy(logits, places, labels, counts / self.total, offsets)
        sought = {n: weights[n] for n in trained if n not in ("wte", "wpe", "shift")}
        if "wte" in trained:
            sought |= {"head": head, "begin": begin}
        found = dict(zip(sought, tf.gradients(logits, list(sought.values()), dlogits), strict=True))
        if "wte" in trained:
            # A row of the head's gradient gets what its token's places add up to in one addition, so that it can stay
            # in the type of the products: it is the largest gradient by far.
            dbegin, (tokens, places) = found.pop("begin"), tf.unique(inputs)
            sums = tf.math.unsorted_segment_sum(dbegin, places, tf.size(tokens))
            if part:
                first = part.table.shape[0]
                found["shift"] = tf.reduce_sum(f32(found["head"][first : first + part.others.shape[0]]), 0)
            found["wte"] = tf.tensor_scatter_nd_add(found.pop("head"), tokens[:, None], tf.cast(sums, kind))
            positions = tf.reshape(self.positions, [-1])
            found["wpe"] = tf.math.unsorted_segment_sum(dbegin, positions, self.hyperparameters["n_ctx"])
        return loss, found

    def _nats(self, functions, weights, predictions) -> tf.Tensor:
        head, (places, labels, counts) = weights["wte"], predictions
        wide = -head.shape[0] % LANES
        offsets = np.repeat(np.float32([0, -np.inf]), [head.shape[0], wide])
        head = tf.pad(tf.cast(head, self.kind), [[0, wide], [0, 0]])
        x = self._hidden(functions, weights)[1]
        rows, block = self.ids.shape
        shares = [n for n in range(1, rows + 1) if rows % n == 0]
        parts = next((n for n in shares if rows // n * block * head.shape[0] <= LOGITS), rows)
        totals, whole = [], fused(log_sum_exp)
        for some in tf.split(x, parts):
            with tf.control_dependencies(totals[-1:]):  # one after the other: their logits are not held side by side
                totals.append(whole(tf.matmul(some, head, transpose_b=True), offsets)[:, 0])
        own = tf.reduce_sum(f32(tf.gather(x, places)) * f32(tf.gather(head, labels)), -1)
        return tf.reduce_sum((tf.gather(tf.concat(totals, 0), places) - own) * counts)

    def _hidden(self, functions, weights) -> tuple[tf.Tensor, tf.Tensor]:
        """What goes into the first block and what comes out of the last, normalized; (N, D)."""
        inputs, positions = tf.reshape(self.ids, [-1]), tf.reshape(self.positions, [-1])
        begin = tf.gather(weights["wte"], inputs) + tf.gather(weights["wpe"], positions)
        h = drop(begin, functions.dropout, self._place(0))
        o, bias = tf.zeros(begin.shape, self.kind), tf.zeros(begin.shape[1:])
        for layer in range(self.hyperparameters["n_layer"]):
            own = {n.partition("/")[2]: w for n, w in weights.items() if n.startswith(f"h{layer}/")}
            run = self._kept_little if self.settings["checkpointing"] else self._block
            h, o, bias = run(functions, h, o, bias, own, layer)
        return begin, functions.add_norm(h, o, bias, weights["ln_f/g"], weights["ln_f/b"], self._place(1))[1]

    def _place(self, number: int) -> tf.Tensor:
        """A seed for each place of dropout."""
        return self.seed + tf.constant([0, number])

    def _block(self, f, h, o, bias, own: dict, layer: int):
        place = 10 * (layer + 1)
        h, x = f.add_norm(h, o, bias, own["ln_1/g"], own["ln_1/b"], self._place(place))
        q, k, v = f.heads(tf.matmul(x, own["attn/c_attn/w"]), own["attn/c_attn/b"])
        attention = f.weights(tf.matmul(q, k, transpose_b=True), self.until, self._place(place + 1))
        o = tf.matmul(f.merge(tf.matmul(attention, v)), own["attn/c_proj/w"])
        h, x = f.add_norm(h, o, own["attn/c_proj/b"], own["ln_2/g"], own["ln_2/b"], self._place(place + 2))
        m = f.gelu(tf.matmul(x, own["mlp/c_fc/w"]), own["mlp/c_fc/b"])
        return h, tf.matmul(m, own["mlp/c_proj/w"]), own["mlp/c_proj/b"]

    def _kept_little(self, f, h, o, bias, own: dict, layer: int):
        """`_block` that keeps its inputs alone and computes the rest again backward (Chen et al. 2016)."""
        names = list(own)

        @tf.custom_gradient
        def run(h, o, bias, *weights):
            def backward(*dys):
                with tf.control_dependencies(dys):  # not before, and not shared with forward
                    xs = [tf.identity(x) for x in (h, o, bias, *weights)]
                ys = self._block(f, *xs[:3], dict(zip(names, xs[3:], strict=True)), layer)
                return tf.gradients(ys, xs, dys)

            return self._block(f, h, o, bias, dict(zip(names, weights, strict=True)), layer), backward

        return run(h, o, bias, *own.values())

    def _update(self, gradients: dict) -> None:
        sums, moments = {}, {}
        zero = tf1.placeholder_with_default(0.0, [])  # a constant would be kept for each variable, in full size
        with tf1.variable_scope("titlesmith", reuse=tf1.AUTO_REUSE):
            for n, v in self.variables.items():
                if n in gradients:
                    zeros = {"initializer": tf.fill(v.shape, zero), "trainable": False}
                    moments[n] = [tf1.get_variable(f"{n}/{m}", **zeros) for m in "mv"]
                    if self.settings["accumulate"] > 1:
                        sums[n] = tf1.get_variable(f"{n}/sum", **zeros)
        self.moments = [m for pair in moments.values() for m in pair]
        self.sums = list(sums.values())
        shapes = {n: v.shape for n, v in self.variables.items()}
        gradients = {n: tf.reshape(g[: shapes[n][0]] if n == "wte" else g, shapes[n]) for n, g in gradients.items()}
        self.accumulate = tf.group(*(tf1.assign_add(sums[n], f32(g)) for n, g in gradients.items() if sums))
        if sums:
            gradients = {n: f32(g) + sums[n] for n, g in gradients.items()}
        squares = fused(lambda g: fewer(tf.reshape(f32(g) ** 2, [-1, g.shape[-1]])))
        self.norm = tf.sqrt(tf.add_n([tf.reduce_sum(squares(g)) for n, g in gradients.items() if n != "shift"]))
        scale = CLIP / tf.maximum(self.norm, CLIP)
        finite = tf.math.is_finite(self.norm + self.loss)
        number = f32(self.steps + 1)
        adamw = {True: fused(self._adamw(self.settings["weight_decay"])), False: fused(self._adamw(0.0))}
        updates: list[tf.Operation] = []
        for n, g in gradients.items():
            held = (self.variables[n], *moments[n])
            with tf.control_dependencies(updates):  # one after the other: new values are not held side by side
                values = [tf.convert_to_tensor(variable) for variable in held]
                rate = SLOWER * self.rate if n == "shift" else self.rate
                new = adamw[n.endswith(("/w", "wte", "wpe"))](*values, g, scale, rate, number, finite)
                updates = [tf1.assign(variable, value).op for variable, value in zip(held, new, strict=True)]
        with tf.control_dependencies(updates):
            cleared = [tf1.assign(s, tf.zeros(s.shape)) for s in self.sums]
            self.apply = tf.group(tf1.assign_add(self.steps, tf.cast(finite, tf.int32)), *cleared)

    @staticmethod
    def _adamw(decay: float) -> Callable:
        def update(p, m, v, g, scale, rate, number, finite):
            g = f32(g) * scale
            new_m, new_v = m + (g - m) * (1 - BETAS[0]), v + (g * g - v) * (1 - BETAS[1])
            away = new_m / (1 - BETAS[0] ** number) / (tf.sqrt(new_v / (1 - BETAS[1] ** number)) + TINY)
            new_p = p - rate * (away + decay * p)
            return tf.where(finite, new_p, p), tf.where(finite, new_m, m), tf.where(finite, new_v, v)

        return update
