"""Do texts come out clean? A thousand over ordinary prefixes, and more over twenty hostile ones, of real titles.

    python benchmarks/clean.py
    python benchmarks/clean.py --run NAME

Without a run, one is trained first: experiments/scratch-titles.yml on the titles of eess.AS, which takes a few minutes
on two cores.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import snapshot

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = [
    "",
    "Neural",
    "Music",
    "Neur",
    "A ",
    "Speech recog",
    "End-to-",
    "Towards",
    "On the use of",
    "Self-supervised",
]
HOSTILE = [
    "", " ", "     ", "\t", "\n", "Neural ", "Neural  networks", " leading", "<|endoftext|>", "<|startoftext|>",
    "<|", "|>", "\U0001f9e0", "\U0001f469\u200d\U0001f52c deep", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\u05e7\u05d5\u05dc \u200f", "na\u00efv", "e\u0301", "\ufffd", " ".join(["word"] * 200),
]  # fmt: skip


def main() -> None:
    """Trains where there is no run, draws, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", help="a run of the project here, or of TITLESMITH_ROOT")
    parser.add_argument(
        "--texts", type=int, default=1000, help="over ordinary prefixes; a fifth of it over hostile ones"
    )
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        found = clean(asked.run or train(Path(folder)), asked.texts)
    for name, value in found.items():
        print(f"{name:<28} {value:g}")
    if asked.json:
        print(json.dumps(found))


def train(folder: Path) -> str:
    """The name of a run of real titles in a separate project."""
    for name in ("notebooks", "experiments"):
        shutil.copytree(ROOT / name, folder / name)
    os.environ["TITLESMITH_ROOT"] = str(folder)
    from titlesmith.experiment import Experiment, find
    from titlesmith.pipeline import chain

    path = snapshot.DATA.resolve() / "arxiv" / "eess.AS.tsv.xz"
    return chain(Experiment.read(find("scratch-titles"), (f"harvest.path={path}",)), until="finetune").name


def clean(name: str, texts: int = 1000) -> dict[str, float]:
    """Shares of texts with an artifact or without an end, and of those that begin with their prefix to the letter.

    Returns
    -------
    dict
        ``artifact_rate`` and ``prefix_kept_rate``, the same with ``hostile_`` in front, and of how many.
    """
    from titlesmith.corpus import Corpus
    from titlesmith.generate import GenerationSettings, Nearest, Request, TextGenerator, is_clean, open_backend
    from titlesmith.runs import Run

    run, found = Run(name), {}
    backend, corpus = open_backend(run), Corpus(run)
    nearest = Nearest(corpus)
    for kind, prefixes, total in (("", PREFIXES, texts), ("hostile_", HOSTILE, texts // 5)):
        settings = GenerationSettings(count=max(1, total // len(prefixes)), max_tokens=48)
        # A prefix's white space and control characters come back as the spaces that a title has
        room = backend.context - settings.max_tokens
        longest = [p for p in prefixes if len(corpus.layout.prompt_ids("", corpus.clean_prefix(p))) <= room]
        requests = [Request(prefix=prefix) for prefix in longest]
        rows = list(TextGenerator(backend, corpus, requests, settings, nearest))
        bad = [row for row in rows if not (row["finished"] and is_clean(row["text"], row["prefix"]))]
        found |= {
            f"{kind}artifact_rate": len(bad) / len(rows),
            f"{kind}prefix_kept_rate": sum(row["text"].startswith(row["prefix"]) for row in rows) / len(rows),
            f"{kind}prefixes_refused": len(prefixes) - len(longest),
            f"{kind}texts": len(rows),
        }
    return found


if __name__ == "__main__":
    main()
