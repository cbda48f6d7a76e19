"""The figures of the page that explains the method, from the newest suitable runs."""

import json
import math
from pathlib import Path

import numpy as np

from titlesmith import tables
from titlesmith.book import figures, write
from titlesmith.book.report import SPLITS, Report
from titlesmith.corpus.budget import evenly_spread
from titlesmith.errors import DAMAGE
from titlesmith.markup import Markup, number, percent, render
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
        types = {"top_p": float, "nucleus": int, "vocabulary": int, "prefix": str, "fingerprint": str}
        lesson |= {key: kind(kept[key]) for key, kind in types.items()}
    except DAMAGE:
        return None
    sizes = [len(lesson[key]) for key in ("nats", "tokens", "probabilities", "likeliest")]
    is_complete = 0 < sizes[0] == sizes[1] and 0 < sizes[2] == sizes[3]
    return lesson if is_complete and lesson["fingerprint"] == report.training["fingerprint"] else None


def measure(report: Report) -> dict:
    """Measures the loss of each token of a held-out text, and the probabilities of the next token after a prefix.

    ``nats`` are the losses of ``tokens``; ``probabilities`` those of the ``likeliest`` tokens after ``prefix``;
    ``nucleus`` is the number of tokens that reach ``top_p`` together; ``vocabulary`` is the number of all tokens.
    """
    from titlesmith.corpus import Corpus
    from titlesmith.generate import open_backend

    corpus, backend = Corpus(report), open_backend(report)
    documents, decode = corpus.documents("test"), corpus.tokenizer.decode
    # A text of about 14 tokens, predicted token by token
    some = [documents[i] for i in range(min(200, len(documents)))]
    text = min(some, key=lambda ids: abs(documents.loss_mask(ids).sum() - 14))
    ids = [corpus.tokenizer.eos_id, *text.tolist()]
    positions = np.flatnonzero(documents.loss_mask(text))[:MAX_TOKENS]
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
    return {
        "fingerprint": report.training["fingerprint"],
        "tokens": [decode([int(text[i])]) for i in positions],
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
    missing = render("lesson.md.j2", report=None, runs=bool(reports))
    if not reports:
        return dict.fromkeys(("finetuning", "loss", "perplexity", "nucleus", "memorising"), missing)
    measured = next(((r, result) for r in reports[:5] if (result := load_lesson(r, folder))), None)
    return {
        "finetuning": _render_samples(reports[0]),
        "loss": _render_loss(*measured) if measured else missing,
        "perplexity": _render_perplexity(reports[0]),
        "nucleus": _render_nucleus(*measured) if measured else missing,
        "memorising": _render_memorization(max(reports[:20], key=_max_copy_rate)),
    }


def _max_copy_rate(report: Report) -> float:
    """The largest share of copies that was measured during training."""
    return max(row.get("copy_rate") or 0.0 for row in report.history)


def _format_token(token: str, space: str) -> str:
    """A token as the label of a bar: without spaces, and with a box for each character that cannot be printed."""
    return "".join(c if c.isprintable() else "\u25a1" for c in token.strip()) or space


def _render_samples(report: Report) -> Markup:
    samples = first_samples(report)
    chosen = [samples[i] for i in evenly_spread(len(samples), 6)]
    rows = [{"step": sample["step"], "generated text": sample["text"][:200]} for sample in chosen]
    return render("lesson.md.j2", part="finetuning", report=report, rows=tables.html(rows))


def _render_loss(report: Report, measured: dict) -> Markup:
    nats, tokens = measured["nats"], [_format_token(token, "·") for token in measured["tokens"]]
    if ended := "|" in tokens[-1]:  # the end-of-text token
        tokens[-1] = "(end)"
    alt = f"The loss of each of {len(nats)} tokens of a held-out title, {np.mean(nats):.2f} nats on average."
    title = "".join(measured["tokens"][:-1] if ended else measured["tokens"])
    figure = figures.render_figure("lesson-loss", alt, figures.draw_token_losses, tokens, nats)
    return render("lesson.md.j2", part="loss", report=report, title=title, figure=figure)


def _render_perplexity(report: Report) -> Markup:
    rows = [{"texts": name, "perplexity": number(report.measurement(f"perplexity.{name}"))} for name in SPLITS]
    values = [math.exp(loss) for _, loss in report.validation]
    alt = f"Perplexity of the validation texts against steps: {values[0]:,.0f} at first, {values[-1]:,.0f} at last."
    figure = figures.render_figure("lesson-perplexity", alt, figures.draw_perplexity, report)
    return render("lesson.md.j2", part="perplexity", report=report, figure=figure, rows=tables.html(rows))


def _render_nucleus(report: Report, measured: dict) -> Markup:
    size, top_p, probabilities = measured["nucleus"], measured["top_p"], measured["probabilities"]
    tokens = [_format_token(token, "(space)") for token in measured["likeliest"]]
    alt = (
        f"Probabilities of the {len(tokens)} likeliest next tokens, from {probabilities[0]:.0%} of {tokens[0]!r} to "
        f"{probabilities[-1]:.1%} of {tokens[-1]!r}; the nucleus has {size:,} tokens."
    )
    figure = figures.render_figure("lesson-nucleus", alt, figures.draw_nucleus, tokens, probabilities, size, top_p)
    return render("lesson.md.j2", part="nucleus", report=report, figure=figure, **measured)


def _render_memorization(report: Report) -> Markup:
    alt = (
        "Top: training and validation loss against steps. Bottom: the share of copies among the texts generated during "
        f"training, at most {percent(_max_copy_rate(report))}."
    )
    figure = figures.render_figure("lesson-memorising", alt, figures.draw_memorization, report)
    return render("lesson.md.j2", part="memorising", report=report, figure=figure)
