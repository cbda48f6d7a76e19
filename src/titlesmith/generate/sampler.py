"""Drawing texts: batches of rows that each go on from a prompt until they end, at random or by beam search."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator

import numpy as np

from titlesmith.generate.decoder import SURE, Decoder
from titlesmith.train.loop import Draw

ROWS = 128  # texts that are drawn side by side, at most
MEMORY = 2**31  # bytes that a batch's keys, values and prompts may take, about
ROOM = 16  # tokens by which the room for texts grows


class Row:
    """A text that is being drawn.

    Parameters
    ----------
    job
        What it belongs to.
    prompt
        Its first ids.
    settings
        Of `Engine.generate`.
    end
        The end of text, which ends a text and does not count as repeated where it opens a prompt.
    seed
        Decides what is drawn.
    """

    def __init__(self, job: int, prompt: list[int], settings: dict, end: int, seed: tuple = ()):
        self.job, self.ids, self.start, self.settings, self.end = job, list(prompt), len(prompt), settings, end
        self.nats, self.score, self.finished = 0.0, 0.0, False
        self._followers: dict[tuple, set[int]] = defaultdict(set)
        if settings["no_repeat_ngram"]:
            for last in range(1, self.start + 1):
                self._count(last)
        if seed:
            generator = np.random.default_rng(np.random.SeedSequence(seed))
            self.uniform = np.minimum(generator.random(settings["max_tokens"], np.float32), SURE)

    def __len__(self) -> int:
        return len(self.ids) - self.start

    def add(self, i: int, nats: float) -> None:
        """Appends an id with its log-probability."""
        self.ids.append(i)
        self.nats += nats
        self.finished = i == self.end
        if self.settings["no_repeat_ngram"]:
            self._count(len(self.ids))

    def branch(self) -> "Row":
        """A copy that goes its own way."""
        new = object.__new__(Row)
        new.__dict__ = self.__dict__ | {"ids": list(self.ids), "_followers": defaultdict(set)}
        for before, ids in self._followers.items():
            new._followers[before] = set(ids)
        return new

    def _count(self, last: int) -> None:
        size = self.settings["no_repeat_ngram"]
        if last >= size and self.ids[last - 1] != self.end:
            self._followers[tuple(self.ids[last - size : last - 1])].add(self.ids[last - 1])

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return self.finished or len(self) == self.settings["max_tokens"]

    @property
    def banned(self) -> set[int]:
        """Ids that may not come next: those that would repeat an n-gram, and the end where it is too early."""
        size = self.settings["no_repeat_ngram"]
        found = set()
        if size and len(self.ids) >= size - 1:
            found |= self._followers.get(tuple(self.ids[len(self.ids) - size + 1 :]), set())
        return found | {self.end} if len(self) < self.settings["min_tokens"] else found

    @property
    def seen(self) -> set[int]:
        """Ids that the repetition penalty falls on."""
        return set(self.ids) - {self.end} if self.settings["repetition_penalty"] != 1 else set()

    @property
    def draw(self) -> Draw:
        """The text as `Engine.generate` returns it."""
        ids = self.ids[self.start : len(self.ids) - self.finished]
        return Draw(ids, self.nats / len(self), self.finished)


class Sampler:
    """Draws texts with a decoder.

    Parameters
    ----------
    decoder
        The model.
    end
        The end of text.
    """

    def __init__(self, decoder: Decoder, end: int):
        self._decoder, self._end = decoder, end

    def generate(self, prompts: list[list[int]], settings: dict) -> list[list[Draw]]:
        """See `Engine.generate`; settings are whole."""
        rows, count, occurrences = [], settings["count"], defaultdict(int)
        by_beams = settings["beams"] > 1
        for job, prompt in enumerate(prompts):
            for _ in range(1 if by_beams else count):
                # What a text is drawn by depends on seed, prompt, and how many texts of that prompt there were
                number = occurrences[tuple(prompt)]
                occurrences[tuple(prompt)] += 1
                seed = (*np.atleast_1d(settings["seed"]), number, len(prompt), *prompt)
                rows.append(Row(job, prompt, settings, self._end, () if by_beams else seed))
        results: list[list[Draw]] = [[] for _ in prompts]
        draw = self._beams if by_beams else self._sample
        for batch in self._batches(rows, settings):
            for job, texts in draw(batch, settings):
                results[job] += texts
        self._decoder.clear()
        return results

    def next(self, prompts: list[list[int]]) -> np.ndarray:
        """See `Engine.next`."""
        found = np.empty((len(prompts), self._decoder.hyperparameters["n_vocab"]), np.float32)
        order = np.argsort([len(p) for p in prompts], kind="stable")
        for batch in self._cut(order, lambda i: len(prompts[i]), lambda i: tuple(prompts[i]), 0):
            found[batch] = self._decoder.next([prompts[i] for i in batch])
        return found

    def _batches(self, rows: list[Row], settings: dict) -> Iterator[list[Row]]:
        """Rows in batches, shortest prompts first, the same prompts side by side."""
        rows = sorted(rows, key=lambda row: (row.start, row.job))
        return self._cut(rows, lambda r: r.start, lambda r: tuple(r.ids), settings["max_tokens"], settings["beams"])

    def _cut(self, items, length, prompt, more: int, copies: int = 1) -> Iterator[list]:
        """Items in batches that fit: keys and values of each row, attention and activations of each prompt."""
        shape = self._decoder.hyperparameters
        token = 8 * shape["n_layer"] * shape["n_embd"]
        batch, read = [], set()
        for item in items:
            n = length(item)
            distinct = len(read | {prompt(item)})
            size = (len(batch) + 1) * copies * token * (n + more) * bool(more)
            size += distinct * n * (12 * n * shape["n_head"] + 64 * shape["n_embd"])
            if batch and ((len(batch) + 1) * copies > ROWS or size > MEMORY):
                yield batch
                batch, read = [], set()
            batch.append(item)
            read.add(prompt(item))
        if batch:
            yield batch

    def _controls(self, rows: list[Row], settings: dict) -> dict:
        d = self._decoder
        pairs = {
            kind: [(i, x) for i, row in enumerate(rows) for x in sorted(getattr(row, kind))]
            for kind in ("seen", "banned")
        }
        return {
            d.seen: np.array(pairs["seen"], np.int32).reshape(-1, 2),
            d.banned: np.array(pairs["banned"], np.int32).reshape(-1, 2),
            d.penalty: settings["repetition_penalty"],
        }

    def _sample(self, rows: list[Row], settings: dict) -> Iterator[tuple[int, list[Draw]]]:
        d = self._decoder
        whole = d.hyperparameters["n_vocab"]
        fixed = {
            d.temperature: settings["temperature"],
            d.top_k: min(settings["top_k"] or whole, whole),
            d.top_p: settings["top_p"],
        }
        # Draws whose texts are the same so far go on from one row of the decoder: the first of them in ``batch`` is in
        # ``firsts``, in the order of the decoder's rows, and ``owners`` has the row of each
        room, batch = max(row.start for row in rows) + ROOM, rows
        firsts, owners = _grouped(tuple(row.ids) for row in batch)
        held = len(firsts)  # rows that the decoder has room for

        def controls():
            chosen = {d.uniform: [row.uniform[len(row)] for row in batch], d.owners: owners}
            return fixed | chosen | self._controls([batch[i] for i in firsts], settings)

        found = d.open([batch[i].ids for i in firsts], room, "draw", controls())
        while True:
            for row, i, nats in zip(batch, *(part.tolist() for part in found), strict=True):
                row.add(i, nats)
            going = [(row, owner) for row, owner in zip(batch, owners, strict=True) if not row.ended]
            if not going:
                break
            batch, before = zip(*going, strict=True)
            firsts, owners = _grouped((owner, row.ids[-1]) for row, owner in going)
            origins, space = [before[i] for i in firsts], _roomier(room, batch)
            if space > room or len(firsts) > held:
                room, held = space, len(batch)  # for all that may yet part, so that the caches seldom change size
                d.rearrange(origins + origins[:1] * (held - len(origins)), room)
            else:
                order = _placed(origins)
                if holes := [row for row, text in enumerate(order) if origins[text] != row]:
                    d.move([origins[order[row]] for row in holes], holes)
                row_of = {text: row for row, text in enumerate(order)}
                firsts, owners = [firsts[text] for text in order], [row_of[text] for text in owners]
            ids, places = zip(*((batch[i].ids[-1], len(batch[i].ids) - 1) for i in firsts), strict=True)
            found = d.step(ids, places, "draw", controls())
        for row in rows:
            yield row.job, [row.draw]

    def _beams(self, rows: list[Row], settings: dict) -> Iterator[tuple[int, list[Draw]]]:
        """Beam search, a beam's score the mean log-probability of its ids and its end, as in transformers."""
        d, size = self._decoder, settings["beams"]
        room = max(row.start for row in rows) + ROOM
        jobs = [Beams(row, size) for row in rows]
        going, width = jobs, {d.width: 2 * size}
        firsts, owners = _grouped(tuple(row.ids) for row in rows)
        batch = [rows[i] for i in firsts]
        found = d.open([row.ids for row in batch], room, "best", self._controls(batch, settings) | width)
        while True:
            origins = []
            for job in going:
                own, owners = owners[: len(job.rows)], owners[len(job.rows) :]
                origins += [own[i] for i in job.go_on(*(part[own] for part in found))]
            going = [job for job in going if job.rows]
            if not going:
                break
            batch = [row for job in going for row in job.rows]
            room = _roomier(room, batch)
            d.rearrange(origins, room)
            owners = list(range(len(batch)))
            ids, places = zip(*((row.ids[-1], len(row.ids) - 1) for row in batch), strict=True)
            found = d.step(ids, places, "best", self._controls(batch, settings) | width)
        for job in jobs:
            yield job.done[0].job, [row.draw for row in job.done[: settings["count"]]]


def _grouped(keys: Iterable[Hashable]) -> tuple[list[int], list[int]]:
    """The places where each key is seen first, and for all keys the number of that place among them."""
    firsts, owners, numbers = [], [], {}
    for place, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(place)
        owners.append(numbers[key])
    return firsts, owners


def _placed(origins: list[int]) -> list[int]:
    """Which text goes into each of the first rows, where each text goes on from the row of ``origins``.

    One text stays in each row that is still needed. Those behind, and those that part, take the places of the others.
    """
    stay = {origin: text for text, origin in reversed([*enumerate(origins)]) if origin < len(origins)}
    others = iter(sorted(set(range(len(origins))) - set(stay.values())))
    return [stay[row] if row in stay else next(others) for row in range(len(origins))]


def _roomier(room: int, rows: list[Row]) -> int:
    """The room for tokens that rows need: as much as there is while it lasts, or a good deal more."""
    longest = max(len(row.ids) for row in rows)
    most = max(row.start + row.settings["max_tokens"] for row in rows)
    return room if longest <= room else max(longest, min(room + max(ROOM, room // 2), most))


class Beams:
    """The beams of one prompt.

    Parameters
    ----------
    row
        The prompt.
    size
        How many beams.
    """

    def __init__(self, row: Row, size: int):
        self.rows, self.size, self.done = [row], size, []

    def go_on(self, scores: np.ndarray, ids: np.ndarray, nats: np.ndarray) -> list[int]:
        """Takes the best continuations, of the ``2 * size`` best of each beam; returns which beams they go on from."""
        totals = scores + np.array([[row.score] for row in self.rows])
        ranked = np.argsort(-totals, axis=None, kind="stable")[: 2 * self.size]
        rows, origins = [], []
        for rank, place in enumerate(ranked):
            beam, column = divmod(int(place), ids.shape[1])
            if not np.isfinite(totals[beam, column]):
                break
            row = self.rows[beam].branch()
            row.add(int(ids[beam, column]), float(nats[beam, column]))
            row.score = float(totals[beam, column])
            if row.ended:
                self.done += [row] if rank < self.size else []
            elif len(rows) < self.size:
                rows.append(row)
                origins.append(beam)
        self.done = sorted(self.done, key=lambda row: -row.score / len(row))[: self.size]
        full = len(self.done) == self.size
        if full and rows and self.done[-1].score / len(self.done[-1]) >= rows[0].score / len(rows[0]):
            rows, origins = [], []  # what goes on has no better mean than the worst that has ended
        self.rows = rows
        return origins
