"""Generated texts: drawn from an engine, checked, compared with the training texts, written line by line."""

import json
import unicodedata

from titlesmith.corpus import Corpus
from titlesmith.corpus.tokens import Layout
from titlesmith.engines.base import Draw, Engine
from titlesmith.nearest import Nearest
from titlesmith.run import Run, replacing

FRAGMENTS = ("<|", "|>", "endoftext", "startoftext", "\ufffd")
ROUNDS = 5  # draws at most of a text that comes out unfinished or with an artifact


def is_clean(text: str) -> bool:
    """Whether a text is free of delimiter fragments, undecodable bytes, line breaks and control characters."""
    return not any(f in text for f in FRAGMENTS) and not any(unicodedata.category(c) == "Cc" for c in text)


def generate(run: Run, engine: Engine, corpus: Corpus, settings: dict) -> list[dict]:
    """Writes ``texts.jsonl``: ``count`` texts for each prefix, a prefix at a time.

    A text that is unfinished or not clean is drawn again, `ROUNDS` draws in all, and the last is kept. Prefixes whose
    texts an interrupted call wrote are kept; the seed makes the rest what it would have been.

    Parameters
    ----------
    run
        Where to write.
    engine
        The fine-tuned model.
    corpus
        What it was trained on.
    settings
        ``prefixes``, and what `Engine.generate` takes. Where the template has a prompt, a prefix is that prompt.

    Returns
    -------
    list of dict
        The lines of texts.jsonl.
    """
    path, prefixes = run / "texts.jsonl", settings["prefixes"]
    written = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []  # the last may be cut short
    lines = [json.loads(line) for line in written]
    whole = len(lines) // settings["count"]  # prefixes of which every text is there
    lines = lines[: whole * settings["count"]]
    with replacing(path) as temporary:
        temporary.write_text("".join(map(_line, lines)), "utf-8")
    training = Nearest(corpus)
    with path.open("a", encoding="utf-8") as file:
        for number, prefix in enumerate(prefixes[whole:], whole):
            rows = _draw(engine, corpus, prefix, settings | {"seed": [settings["seed"], number]})
            for row, match in zip(rows, training.find([r["text"] for r in rows]), strict=True):
                row |= {"nearest_id": match.id, "nearest": match.text, "nearest_similarity": match.similarity}
            file.write("".join(map(_line, rows)))
            file.flush()
            lines += rows
    run.finish("generate")
    return lines


def _draw(engine: Engine, corpus: Corpus, prefix: str, settings: dict) -> list[dict]:
    prompt = corpus.layout.opening(prefix)
    kept: list[dict] = []
    for attempt in range(ROUNDS):
        missing = settings["count"] - len(kept)
        (draws,) = engine.generate([prompt], settings | {"count": missing, "seed": [*settings["seed"], attempt]})
        rows = [_row(corpus.layout, prefix, draw) for draw in draws]
        last = attempt == ROUNDS - 1
        kept += [row for row in rows if last or (row["finished"] and is_clean(row["text"]))]
        if len(kept) == settings["count"]:
            break
    return kept


def _row(layout: Layout, prefix: str, draw: Draw) -> dict:
    # Decoded together, so that a character whose bytes are split between prefix and continuation comes out whole
    ids = draw.ids if layout.has_prompt else layout.tokenizer.encode(prefix) + draw.ids
    return {
        "prefix": "" if layout.has_prompt else prefix,
        "prompt": prefix if layout.has_prompt else "",
        "text": layout.text(ids),
        "tokens": len(draw.ids),
        "logprob": round(draw.logprob, 4),
        "finished": draw.finished,
    }


def _line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
