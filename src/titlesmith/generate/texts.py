"""Texts of a run's model: those that it writes during training, and those that are the run's result.

The result is texts.jsonl, one row per text, written block by block, and texts.txt, the texts alone.
"""

import json
from collections import Counter

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import fold
from titlesmith.errors import shorten
from titlesmith.generate.backend import Backend, GenerationSettings
from titlesmith.generate.generator import TextGenerator
from titlesmith.generate.prompts import Request, requests
from titlesmith.generate.source import backend_for
from titlesmith.runs import Run, replacing
from titlesmith.train import Engine

PROBE_TOKENS = 48  # maximum of a text during training
COLUMNS = ("prefix", "prompt", "text", "logprob", "finished", "nearest", "nearest_similarity")
HEADINGS = ("prefix", "prompt", "generated text", "log-probability", "finished", "nearest training text", "similarity")


class Probe:
    """Texts of a model in training: ``settings["probe"]`` of them, for the prompt of the first validation document."""

    def __init__(self, corpus: Corpus, settings: dict):
        # Hashes, because millions of abstracts do not fit into memory
        batches = corpus.scan("train").select("completion").collect_batches()
        self._known = {hash(fold(text)) for batch in batches for text in batch.to_series()}
        self._layout, self._count, self._seed = corpus.layout, settings["probe"], settings["seed"]
        self._opening = corpus.layout.prompt_ids(corpus.scan("valid").head(1).collect()["prompt"].item())

    def __call__(self, engine: Engine) -> tuple[list[str], float]:
        """Texts, and the share of them that equals a training text, case and white space aside."""
        backend = backend_for(engine)
        max_tokens = min(PROBE_TOKENS, backend.context - len(self._opening))
        settings = GenerationSettings(count=self._count, seed=self._seed, max_tokens=max_tokens)
        (completions,) = backend.generate([self._opening], settings)
        texts = [self._layout.decode(completion.ids) for completion in completions]
        return texts, sum(hash(fold(text)) in self._known for text in texts) / len(texts)


def write_texts(run: Run, backend: Backend, corpus: Corpus, parameters: dict) -> list[dict]:
    """Generates the texts of a run into ``texts.jsonl`` with the parameters of notebook 04, and ends its stage.

    The blocks that an interrupted call wrote are kept; the others are the same as without the interruption. Returns the
    rows, see `TextGenerator`.
    """
    path, requested = run / "texts.jsonl", requests(corpus, parameters)
    settings = GenerationSettings.of(parameters)
    generator = TextGenerator(backend, corpus, requested, settings)
    # Keep the complete blocks of an interrupted call, and write the others
    blocks, size = run.record("generate").get("written", (0, 0)) if path.exists() else (0, 0)
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:size]] if size else []
    generator.seen.update(fold(row["text"]) for row in rows)
    for number in range(blocks, len(generator.blocks)):
        rows += generator.block(number)
        with replacing(path) as temporary:
            temporary.write_text("".join(map(line, rows)), "utf-8")
        run.update_stage("generate", written=(number + 1, len(rows)))
    with replacing(run / "texts.txt") as temporary:
        temporary.write_text("\n\n".join(row["text"] for row in rows) + "\n", "utf-8")
    print(*lacking(requested, rows, settings.count), sep="", end="")
    run.finish("generate")
    return rows


def line(row: dict) -> str:
    """A row as a line of texts.jsonl."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def columns(rows: list[dict]) -> dict[str, str]:
    """Columns of a table of rows, with headings; ``prompt`` and ``finished`` only where rows differ in them."""
    same = {key for key in ("prompt", "finished") if len({row[key] for row in rows}) == 1}
    return {key: heading for key, heading in zip(COLUMNS, HEADINGS, strict=True) if key not in same}


def lacking(requests: list[Request], rows: list[dict], count: int) -> list[str]:
    """A sentence for each request that has fewer than ``count`` texts."""
    written = Counter((row["prompt"], row["prefix"]) for row in rows)
    return [
        f"{shorten(r.prefix or r.prompt)}: {n:,} of {count:,} texts; all others were repeats or copies of training "
        "texts. Raise temperature, top_k or beams\n"
        for r in dict.fromkeys(requests)
        if (n := written[r.prompt, r.prefix]) < count
    ]
