"""The figures of the page that explains the method, made from the newest run that they can be made from."""

import json
import math
from html import escape

import numpy as np

from titlesmith import tables
from titlesmith.book import figures, pages
from titlesmith.book.report import SPLITS, Report
from titlesmith.book.untrusted import myst
from titlesmith.errors import DAMAGE
from titlesmith.runs import write_json

LIKELIEST = 15  # tokens that the figure shows
FILE = "lesson.json"


def lesson(report: Report, cache) -> dict | None:
    """What the model of a run thinks of one title and of one next word; None where the model is not at hand.

    It is asked once; the answer stays in the folder ``cache`` and goes with the run into a published book.
    """
    for path in (report / FILE, cache / f"{report.name}.json"):
        if path.is_file():
            try:
                found = _checked(json.loads(path.read_text("utf-8")))
            except DAMAGE:
                continue
            if found["fingerprint"] == report.training["fingerprint"]:
                return found
    try:
        found = ask(report)
    except DAMAGE:
        return None
    write_json(cache / f"{report.name}.json", found)
    return found


def _checked(found: dict) -> dict:
    """The answer of `ask` from a file of anybody's, with its types checked (see `DAMAGE`)."""
    numbers = {key: [float(value) for value in found[key]] for key in ("nats", "probabilities")}
    texts = {key: [str(value) for value in found[key]] for key in ("tokens", "likeliest")}
    counts = {"top_p": float(found["top_p"]), "nucleus": found["nucleus"] and int(found["nucleus"])}
    if not numbers["nats"] or len(numbers["nats"]) != len(texts["tokens"]):
        raise ValueError("tokens and nats differ in number")
    return numbers | texts | counts | {
        "asked": int(found["asked"]), "prefix": str(found["prefix"]), "fingerprint": str(found["fingerprint"])
    }  # fmt: skip


def ask(report: Report) -> dict:
    """Loads the model and measures the surprise of each token of a held-out text, and what may follow a prefix.

    Returns
    -------
    dict
        ``tokens`` and ``nats`` of the text, ``prefix``, the ``likeliest`` next tokens and their ``probabilities``,
        ``nucleus`` (how many tokens reach ``top_p`` together, null where more than were asked about) and ``asked``.
    """
    from titlesmith.corpus import Corpus
    from titlesmith.generate import open_backend

    corpus, backend = Corpus(report), open_backend(report)
    documents, decode = corpus.documents("test"), corpus.tokenizer.decode
    some = [documents[i] for i in range(min(200, len(documents)))]
    text = min(some, key=lambda ids: abs(documents.loss_mask(ids).sum() - 14))
    ids = [corpus.tokenizer.eos_id, *text.tolist()]
    places = np.flatnonzero(documents.loss_mask(text))[:24]  # place i of the text is column i + 1 of the ids
    after = backend.next_token_logprobs([ids[: place + 1] for place in places])
    nats = -after[np.arange(len(places)), text[places]]

    sampling = report.record("generate")["settings"]
    prefix = "" if corpus.has_prompt else next(filter(None, sampling["prefixes"]), "")
    opening = ids[: places[0] + 1] if corpus.has_prompt else corpus.layout.prompt_ids(prefix)
    probabilities = np.exp(backend.next_token_logprobs([opening])[0])
    order = np.argsort(-probabilities, kind="stable")
    top_p = sampling.get("top_p", 1.0)
    top_p = top_p if top_p < 1 else 0.9
    reached = np.flatnonzero(np.cumsum(probabilities[order]) >= top_p)
    return {
        "fingerprint": report.training["fingerprint"],
        "tokens": [decode([int(text[i])]) for i in places],
        "nats": [round(float(value), 4) for value in nats],
        "prefix": prefix,
        "likeliest": [decode([int(i)]) for i in order[:LIKELIEST]],
        "probabilities": [round(float(probabilities[i]), 6) for i in order[:LIKELIEST]],
        "top_p": top_p,
        "nucleus": int(reached[0]) + 1 if len(reached) else None,
        "asked": len(probabilities),
    }


def parts(reports: list[Report], cache) -> dict[str, str]:
    """What each section of the page shows, by its name; a sentence where there is no run to draw it from."""
    names = ("finetuning", "loss", "perplexity", "nucleus", "memorising")
    if not reports:
        return dict.fromkeys(names, "*Once a run is complete, a figure of it stands here.*\n")
    reports = sorted(reports, key=lambda r: bool(r.sweep))  # runs of their own first, the newest of them
    report = next((r for r in reports if any(row["valid_loss"] is not None for row in r.history)), reports[0])
    made = {
        "finetuning": _finetuning(report),
        "perplexity": _perplexity(report),
        "memorising": _memorising(max(reports[:20], key=_copies)),
    }
    known = next(((r, found) for r in reports[:5] if (found := lesson(r, cache))), None)
    if not known:
        without = "*The model of no recent run is at hand to draw this figure with.*\n"
        return made | {"loss": without, "nucleus": without}
    return made | {"loss": _loss(*known), "nucleus": _nucleus(*known)}


def _copies(report: Report) -> float:
    """The largest share of copies that was seen while training."""
    return max((row.get("copy_rate") or 0.0 for row in report.history), default=0.0)


def _source(report: Report) -> str:
    invented = " Its papers are made up." if report.made_up else ""
    return f"From the run [{myst(report.name)}](runs/{report.name}/index.md).{invented}\n"


def _finetuning(report: Report) -> str:
    samples = report.samples
    picked = [samples[i] for i in sorted({round(x) for x in np.linspace(0, len(samples) - 1, 6)})] if samples else []
    rows = [{"step": row["step"], "what it wrote": row["text"][:200]} for row in picked]
    return f"{tables.html(rows)}\n\n{_source(report)}"


def _loss(report: Report, found: dict) -> str:
    tokens, nats = found["tokens"], found["nats"]
    shown = [token.strip() or "·" for token in tokens]
    if "|" in shown[-1]:
        shown[-1] = "(end)"
    most = max(range(len(nats)), key=nats.__getitem__)
    alt = (
        f"Bars: the surprise of the model at each of {len(nats)} tokens of a held-out title. It is largest, "
        f"{max(nats):.1f} nats, at the token {shown[most]!r}; the mean is {np.mean(nats):.2f}."
    )
    title = escape("".join(tokens[:-1] if shown[-1] == "(end)" else tokens))
    drawn = figures.image("lesson-loss", lambda: figures.surprise(shown, nats), alt)
    intro = f"<p {pages.PLAIN}>A title that the model never read: <em>{title}</em></p>"
    return f"{intro}\n\n{drawn}\n{_source(report)}"


def _perplexity(report: Report) -> str:
    rows = [{"texts": name, "perplexity": pages.number(report.figure(f"perplexity.{name}"))} for name in SPLITS]
    table = tables.html(rows)
    measured = [math.exp(row["valid_loss"]) for row in report.history if row["valid_loss"] is not None]
    if not measured:
        return f"{table}\n\n{_source(report)}"
    alt = (
        f"Perplexity of the validation texts against steps, on a logarithmic scale: from {measured[0]:,.0f} at the "
        f"first measurement to {min(measured):,.0f} at the best and {measured[-1]:,.0f} at the last."
    )
    return (
        f"{figures.image('lesson-perplexity', lambda: figures.perplexity(report), alt)}\n{table}\n\n{_source(report)}"
    )


def _nucleus(report: Report, found: dict) -> str:
    size = found["nucleus"] or found["asked"]
    shown = [token.strip() or "(space)" for token in found["likeliest"]]
    behind = f"behind <em>{escape(found['prefix'])}</em>" if found["prefix"] else "at the start of a text"
    alt = (
        f"Bars: the probability of the {len(shown)} likeliest next tokens, from {shown[0]!r} at "
        f"{found['probabilities'][0]:.0%} down to {shown[-1]!r} at {found['probabilities'][-1]:.1%}; "
        f"the nucleus of {found['top_p']:.0%} has {size:,} tokens."
    )
    drawn = figures.image(
        "lesson-nucleus", lambda: figures.nucleus(shown, found["probabilities"], size, found["top_p"]), alt
    )
    words = f"What may come next {behind}, the likeliest first. The nucleus of {found['top_p']:.0%} has {size:,} tokens"
    return f"<p>{words}; the model knows more than {found['asked'] - 1:,}.</p>\n\n{drawn}\n{_source(report)}"


def _memorising(report: Report) -> str:
    last = report.history[-1]
    measured = [row["valid_loss"] for row in report.history if row["valid_loss"] is not None]
    if not measured:
        return _source(report)
    alt = (
        f"Left: training loss and validation loss against steps; at the end they are {last['loss_smoothed']:.1f} and "
        f"{measured[-1]:.1f} nats a token. Right: the share of copies among the texts written while training, at most "
        f"{pages.share(_copies(report))}."
    )
    return f"{figures.image('lesson-memorising', lambda: figures.memorising(report), alt)}\n{_source(report)}"
