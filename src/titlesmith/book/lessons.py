"""The figures of the page that explains the method, from the newest suitable runs."""

import json
from pathlib import Path

import numpy as np

from titlesmith import tables
from titlesmith.book import figures, write
from titlesmith.book.report import Report
from titlesmith.corpus.budget import evenly_spread
from titlesmith.errors import DAMAGE
from titlesmith.markup import Markup, render
from titlesmith.train.monitor import first_samples

LIKELIEST = 15  # next tokens in the figure
MAX_TOKENS = 24  # tokens of the title in the figure
FILE = "lesson.json"


def load_lesson(report: Report, folder: Path) -> dict | None:
    """The result of `measure` for a run, which is kept in ``folder/<run>/``; None if its model is not available."""
    kept = folder / report.name / FILE
    try:
        lesson = _read(report / FILE, report) or _read(kept, report) or measure(report)
    except DAMAGE:
        return None
    write(kept, json.dumps(lesson, indent=2, ensure_ascii=False) + "\n")
    return lesson


def _read(path: Path, report: Report) -> dict | None:
    """A kept result of `measure`, its types checked, because the file may come from somebody else."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        lesson = {key: [float(value) for value in kept[key]] for key in ("nats", "probabilities")}
        lesson |= {key: [str(value) for value in kept[key]] for key in ("tokens", "likeliest")}
        types = {"top_p": float, "nucleus": int, "vocabulary": int, "prefix": str, "title": str, "fingerprint": str}
        lesson |= {key: kind(kept[key]) for key, kind in types.items()}
    except DAMAGE:
        return None
    sizes = [len(lesson[key]) for key in ("nats", "tokens", "probabilities", "likeliest")]
    is_complete = 0 < sizes[0] == sizes[1] and 0 < sizes[2] == sizes[3]
    return lesson if is_complete and lesson["fingerprint"] == report.training["fingerprint"] else None


def measure(report: Report) -> dict:
    """Measures the loss of each token of a held-out text, and the probabilities of the next token after a prefix.

    ``nats`` are the losses of the ``tokens`` of ``title``; ``probabilities`` those of the ``likeliest`` tokens after
    ``prefix``; ``nucleus`` is the number of tokens that reach ``top_p`` together; ``vocabulary`` that of all tokens.
    """
    from titlesmith.corpus import Corpus
    from titlesmith.generate import open_backend

    corpus, backend = Corpus(report), open_backend(report)
    documents, decode = corpus.documents("test"), corpus.tokenizer.decode
    # A text of about 14 tokens, predicted token by token
    number = min(range(min(200, len(documents))), key=lambda i: abs(documents.loss_mask(i).sum() - 14))
    text = documents[number]
    ids = [corpus.tokenizer.eos_id, *text.tolist()]
    positions = np.flatnonzero(documents.loss_mask(number))[:MAX_TOKENS]
    logprobs = backend.next_token_logprobs([ids[: position + 1] for position in positions])
    nats = -logprobs[np.arange(len(positions)), text[positions]]
    # The next token after a prompt
    sampling = report.record("generate")["settings"]
    prefix = "" if corpus.has_prompt else next(filter(None, sampling["prefixes"]), "")
    prompt = ids[: positions[0] + 1] if corpus.has_prompt else corpus.layout.prompt_ids(prefix)
    probabilities = np.exp(backend.next_token_logprobs([prompt])[0])
    # The nucleus: the likeliest tokens that reach top_p together
    order = np.argsort(-probabilities, kind="stable")
    top_p = sampling.get("top_p", 1.0)
    top_p = top_p if top_p < 1 else 0.9
    reached = np.flatnonzero(np.cumsum(probabilities[order]) >= top_p)
    tokens = [decode([int(text[i])]) for i in positions]
    return {
        "fingerprint": report.training["fingerprint"],
        "title": "".join(token for token in tokens if "|" not in token),  # without the end-of-text token
        "tokens": tokens,
        "nats": [round(float(value), 4) for value in nats],
        "prefix": prefix,
        "likeliest": [decode([int(i)]) for i in order[:LIKELIEST]],
        "probabilities": [round(float(probabilities[i]), 6) for i in order[:LIKELIEST]],
        "top_p": top_p,
        "nucleus": int(reached[0]) + 1 if len(reached) else len(probabilities),
        "vocabulary": len(probabilities),
    }


def render_lessons(reports: list[Report], folder: Path) -> dict[str, Markup]:
    """The figure and text of each section of the page, by its name; `load_lesson` describes ``folder``."""
    # First runs in no sweep, newest first
    reports = sorted((r for r in reports if r.validation), key=lambda r: bool(r.sweep))
    newest, copying = (reports or [None])[0], max(reports[:20], key=_max_copy_rate, default=None)
    measured, lesson = next(((r, kept) for r in reports[:5] if (kept := load_lesson(r, folder))), (None, None))
    chosen = {"finetuning": newest, "perplexity": newest, "loss": measured, "nucleus": measured, "memorising": copying}
    values = {"runs": bool(reports), "lesson": lesson, "choose_samples": choose_samples}
    values |= {"figures": figures, "table": tables.html}
    return {
        name: render(f"lesson-{name}.md.j2" if report else "lesson-missing.md.j2", report=report, **values)
        for name, report in chosen.items()
    }


def choose_samples(report: Report, count: int = 6) -> list[dict]:
    """The beginnings of samples during a training, evenly spread."""
    samples = first_samples(report)
    return [samples[i] | {"text": samples[i]["text"][:200]} for i in evenly_spread(len(samples), count)]


def _max_copy_rate(report: Report) -> float:
    """The largest share of copies that was measured during training."""
    return max(row.get("copy_rate") or 0.0 for row in report.history)
