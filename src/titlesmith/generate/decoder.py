"""GPT-2 a token at a time in TensorFlow: the function of gpt-2-simple's graph, with keys and values kept in place.

One graph serves all calls. Each row of a batch stands at a place of its own, so that prompts of unequal lengths go on
side by side: a prompt is read once, padded behind its end, and what stands behind a row's place is masked until it is
written over. Keys and values lie in variables that a step writes into; they are copied only where texts part, where a
row takes the place of one that has ended, and where the room grows.

Several draws may go on from one row while their texts are the same; they are told apart by what they draw.

Shapes: R rows, N draws, P tokens of the longest prompt, T room for tokens, D width, H heads, V vocabulary.
"""

import numpy as np
import tensorflow as tf

from titlesmith.train.gpt2_step import EPSILON, LANES, f32

tf1 = tf.compat.v1
SURE = np.float32(1 - 1e-6)  # a number to draw by stays below one in float32


class Decoder:
    """The model's graph for generating, in the current graph.

    Parameters
    ----------
    variables
        The model's, by name without ``model/``.
    hyperparameters
        As in hparams.json.
    kind
        Type of the operands of matrix products.
    session
        Where it runs.
    """

    def __init__(self, variables: dict, hyperparameters: dict, kind: tf.DType, session: tf1.Session):
        self.hyperparameters, self.kind, self._session = hyperparameters, kind, session
        self._vocabulary, self._heads = hyperparameters["n_vocab"], hyperparameters["n_head"]
        self._layers, self._width = hyperparameters["n_layer"], hyperparameters["n_embd"] // hyperparameters["n_head"]
        self._variables = variables
        self._copy()
        shape = [None, self._heads, None, self._width]
        self._caches = [self._empty(shape, kind) for _ in range(2 * self._layers)]
        self._controls()
        self._open()
        self._step()
        self.rows = tf1.placeholder(tf.int32, [None])
        self.holes = tf1.placeholder(tf.int32, [None])
        self._moved = [tf1.scatter_update(c, self.holes, tf.gather(c, self.rows)).op for c in self._caches]
        self._rearranged = [self._fill(cache, tf.gather(cache, self.rows)) for cache in self._caches]
        self._cleared = [tf1.assign(c, tf.zeros([0] * 4, kind), validate_shape=False).op for c in self._caches]

    @staticmethod
    def _empty(shape: list, kind: tf.DType) -> tf.Variable:
        """A variable whose size changes; not a resource, whose every reading would copy it once parts are written."""
        nothing = tf.zeros([n or 0 for n in shape], kind)
        variable = tf1.Variable(
            tf1.placeholder_with_default(nothing, shape),
            False,
            validate_shape=False,
            collections=[],
            use_resource=False,
        )
        variable.set_shape(shape)
        return variable

    def _copy(self) -> None:
        """Weights as products take them: the head turned and padded, matrices in the type of the products."""
        wte, wide = self._variables["wte"], -self._vocabulary % LANES
        head = tf.pad(tf.transpose(tf.cast(wte, self.kind)), [[0, 0], [0, wide]])
        copies = {"head": head}
        if self.kind != tf.float32:
            copies |= {n: tf.cast(v, self.kind) for n, v in self._variables.items() if n.endswith("/w")}
        held = {n: self._empty(c.shape.as_list(), self.kind) for n, c in copies.items()}
        self._fresh = [tf1.assign(held[n], c, validate_shape=False).op for n, c in copies.items()]
        self._dropped = [tf1.assign(v, tf.zeros([0], self.kind), validate_shape=False).op for v in held.values()]
        self._weights = self._variables | held
        self._padding = np.where(np.arange(self._vocabulary + wide) < self._vocabulary, 0, -np.inf).astype(np.float32)

    def refresh(self) -> None:
        """Takes over weights that have changed."""
        self._session.run(self._fresh)

    def release(self) -> None:
        """Gives the memory of the copies back until `refresh`."""
        self._session.run(self._dropped)

    def clear(self) -> None:
        """Gives the memory of keys and values back."""
        self._session.run(self._cleared)

    def _controls(self) -> None:
        place = tf1.placeholder
        self.seen, self.banned = place(tf.int32, [None, 2]), place(tf.int32, [None, 2])
        self.penalty, self.temperature, self.top_p = (place(tf.float32, []) for _ in range(3))
        self.top_k, self.width, self.room = (place(tf.int32, []) for _ in range(3))
        self.uniform, self.owners = place(tf.float32, [None]), place(tf.int32, [None])

    def _normal(self, h: tf.Tensor, name: str) -> tf.Tensor:
        h -= tf.reduce_mean(h, -1, keepdims=True)
        h *= tf.math.rsqrt(tf.reduce_mean(h * h, -1, keepdims=True) + EPSILON)
        return tf.cast(h * self._weights[f"{name}/g"] + self._weights[f"{name}/b"], self.kind)

    def _product(self, x: tf.Tensor, name: str) -> tf.Tensor:
        w = self._weights[f"{name}/w"]
        return tf.nn.bias_add(f32(tf.matmul(x, tf.reshape(w, w.shape[1:]))), self._weights[f"{name}/b"])

    def _stream(self, ids: tf.Tensor, places: tf.Tensor, count: tf.Tensor, attend) -> tf.Tensor:
        """The normalized stream (ids, D) behind the last layer of ``ids`` at ``places``, of ``count`` rows."""
        w = self._weights
        h = tf.gather(w["wte"], ids) + tf.gather(w["wpe"], places)
        for layer in range(self._layers):
            c = tf.cast(self._product(self._normal(h, f"h{layer}/ln_1"), f"h{layer}/attn/c_attn"), self.kind)
            c = tf.reshape(c, [count, -1, 3, self._heads, self._width])
            q, k, v = tf.unstack(tf.transpose(c, [2, 0, 3, 1, 4]))
            k, v, mask = attend(layer, k, v)
            scores = f32(tf.matmul(q * tf.cast(self._width**-0.5, self.kind), k, transpose_b=True))
            a = tf.matmul(tf.cast(tf.nn.softmax(scores + mask), self.kind), v)
            a = tf.reshape(tf.transpose(a, [0, 2, 1, 3]), [-1, self._heads * self._width])
            h += self._product(a, f"h{layer}/attn/c_proj")
            m = self._product(self._normal(h, f"h{layer}/ln_2"), f"h{layer}/mlp/c_fc")
            m = tf.cast(tf.nn.gelu(m, approximate=True), self.kind)
            h += self._product(m, f"h{layer}/mlp/c_proj")
        return self._normal(h, "ln_f")

    def _fill(self, cache: tf.Variable, values: tf.Tensor) -> tf.Operation:
        """Puts ``values`` (R', H, T', D / H) into a cache, with room for T tokens."""
        more = tf.pad(values, [[0, 0], [0, 0], [0, self.room - tf.shape(values)[2]], [0, 0]])
        return tf1.assign(cache, more, validate_shape=False).op

    def _open(self) -> None:
        self.prompts, self.lengths = tf1.placeholder(tf.int32, [None, None]), tf1.placeholder(tf.int32, [None])
        count, longest = tf.unstack(tf.shape(self.prompts))
        ahead = tf.linalg.band_part(tf.ones([longest, longest], tf.bool), -1, 0)
        mask, filled = tf.where(ahead, 0.0, -np.inf), []

        def attend(layer, k, v):
            for cache, values in zip(self._caches[2 * layer : 2 * layer + 2], (k, v), strict=True):
                filled.append(self._fill(cache, values))
            return k, v, mask

        places = tf.tile(tf.range(longest), [count])
        x = self._stream(tf.reshape(self.prompts, [-1]), places, count, attend)
        last = tf.gather(x, tf.range(count) * longest + self.lengths - 1)
        logits = self._logits(last)
        self._next = tf.nn.log_softmax(logits[:, : self._vocabulary])
        self._opened = {want: (fetch, filled) for want, fetch in self._found(logits).items()}

    def _step(self) -> None:
        self.ids, self.places = tf1.placeholder(tf.int32, [None]), tf1.placeholder(tf.int32, [None])
        count = tf.size(self.ids)
        rows, heads = tf.meshgrid(tf.range(count), tf.range(self._heads), indexing="ij")
        index = tf.stack([rows, heads, tf.broadcast_to(self.places[:, None], tf.shape(rows))], -1)
        room = tf.shape(self._caches[0])[2]
        mask = tf.where(tf.range(room) <= self.places[:, None], 0.0, -np.inf)[:, None, None]

        def attend(layer, k, v):
            k, v = (
                tf1.scatter_nd_update(cache, index, values[:, :, 0])[:count]  # no copy
                for cache, values in zip(self._caches[2 * layer : 2 * layer + 2], (k, v), strict=True)
            )
            return k, v, mask

        self._stepped = self._found(self._logits(self._stream(self.ids, self.places, count, attend)))

    def _logits(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(f32(tf.matmul(x, self._weights["head"])), self._padding)

    def _adjusted(self, scores: tf.Tensor) -> tf.Tensor:
        """Scores (R, V) with what a row has seen made less likely, and what it may not draw impossible."""
        old = tf.gather_nd(scores, self.seen)
        new = tf.where(old > 0, old / self.penalty, old * self.penalty)
        scores = tf.cond(
            tf.size(self.seen) > 0, lambda: tf.tensor_scatter_nd_update(scores, self.seen, new), lambda: scores
        )
        never = tf.fill([tf.shape(self.banned)[0]], -np.inf)
        return tf.cond(
            tf.size(self.banned) > 0, lambda: tf.tensor_scatter_nd_update(scores, self.banned, never), lambda: scores
        )

    def _found(self, logits: tf.Tensor) -> dict:
        """What to fetch of logits (R, V): ids drawn by `uniform`, or the ``width`` best, with log-probabilities."""
        scores, highest = self._adjusted(logits), tf.reduce_max(logits, -1, keepdims=True)
        total = highest + tf.math.log(tf.reduce_sum(tf.exp(logits - highest), -1, keepdims=True))

        def place(values):
            sums = tf.gather(tf.cumsum(tf.nn.softmax(values), axis=-1), self.owners)
            return tf.math.count_nonzero(sums <= self.uniform[:, None] * sums[:, -1:], -1, dtype=tf.int32)

        def cut():
            values, ids = _highest(scores, self.top_k)
            values /= self.temperature
            before = tf.cumsum(tf.nn.softmax(values), axis=-1, exclusive=True)
            places = place(tf.where(before < self.top_p, values, -np.inf))
            return tf.gather_nd(ids, tf.stack([self.owners, places], 1))

        every = (self.top_k >= self._vocabulary) & (self.top_p >= 1.0)
        drawn = tf.cond(every, lambda: place(scores / self.temperature), cut)
        nats = tf.gather_nd(logits, tf.stack([self.owners, drawn], 1)) - tf.gather(total[:, 0], self.owners)
        best, ids = _highest(self._adjusted(logits - total), self.width)
        return {"draw": (drawn, nats), "best": (best, ids, tf.gather(logits, ids, batch_dims=1) - total)}

    def open(self, prompts: list[list[int]], room: int, want: str, controls: dict) -> tuple:
        """Reads prompts (R,), which the batch goes on from; returns as `step` does."""
        return self._session.run(self._opened[want], self._padded(prompts) | {self.room: room} | controls)[0]

    def step(self, ids: np.ndarray, places: np.ndarray, want: str, controls: dict) -> tuple:
        """Puts ``ids`` (R,) at ``places`` (R,) of the first R rows, and says what comes next.

        Returns
        -------
        tuple of ndarray
            ``draw``: ids (N,), each behind the row that ``owners`` (N,) says, and their log-probabilities under the
            model itself (N,). ``best``: adjusted log-probabilities, ids, and log-probabilities under the model itself,
            each (R, width), best first.
        """
        return self._session.run(self._stepped[want], {self.ids: ids, self.places: places} | controls)

    def move(self, rows: list[int], holes: list[int]) -> None:
        """Copies each of these rows into the place of another."""
        self._session.run(self._moved, {self.rows: rows, self.holes: holes})

    def rearrange(self, rows: list[int], room: int) -> None:
        """Goes on with these rows of the batch, any of them more than once, and with room for so many tokens."""
        self._session.run(self._rearranged, {self.rows: rows, self.room: room})

    def next(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities (prompts, V) of what comes next."""
        return self._session.run(self._next, self._padded(prompts))

    def _padded(self, prompts: list[list[int]]) -> dict:
        padded = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        return {self.prompts: padded, self.lengths: [len(p) for p in prompts]}


def _highest(scores: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The ``k`` highest of each row of scores (R, V padded), and their ids, from the ``k`` groups that can hold them.

    `tf.math.top_k` over all of the vocabulary at once takes seven times as long.
    """
    groups = tf.reshape(scores, [-1, scores.shape[-1] // LANES, LANES])
    chosen = tf.math.top_k(tf.reduce_max(groups, -1), tf.minimum(k, groups.shape[1])).indices
    some = tf.reshape(tf.gather(groups, chosen, batch_dims=1), [tf.shape(scores)[0], -1])
    values, places = tf.math.top_k(some, k)
    return values, tf.gather(chosen, places // LANES, batch_dims=1) * LANES + places % LANES
