"""Source ``sample``: papers made up from the grammar in ``sample.json``, labelled so in their ids and categories."""

import json
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from titlesmith.harvest.schema import Faults

FIRST_DAY, DAYS = date(2019, 1, 1), 2190


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Makes ``settings["num_papers"]`` papers with distinct titles, the same for the same ``settings["seed"]``."""
    grammar = json.loads(Path(__file__).with_name("sample.json").read_text("utf-8"))
    random_state = random.Random(settings["seed"])
    rows: dict[str, dict] = {}
    while len(rows) < settings["num_papers"]:
        field = random_state.choice(list(grammar["fields"]))
        words = grammar["common"] | grammar["fields"][field]
        title = random_state.choice(grammar["titles"]).format_map({k: random_state.choice(v) for k, v in words.items()})
        if title in rows:
            continue
        # The abstract has other words, but the title's task
        subject = {k: random_state.choice(v).lower() for k, v in words.items()}
        subject |= {"task": next((t.lower() for t in words["task"] if t in title), subject["task"])}
        sentences = random_state.sample(grammar["sentences"], k=random_state.randint(4, 6))
        abstract = " ".join(s.format(percent=random_state.randint(3, 60), **subject) for s in sentences)
        # More papers in later years, as on arXiv: the square root of a uniform number leans towards one.
        published = FIRST_DAY + timedelta(days=int(DAYS * random_state.random() ** 0.5))
        rows[title] = {
            "id": f"sample.{len(rows) + 1:05d}",
            "title": title,
            "abstract": abstract,
            "authors": random_state.sample(grammar["surnames"], k=random_state.randint(1, 4)),
            "categories": [f"made-up.{field}"],
            "primary_category": f"made-up.{field}",
            "published": published,
            "comments": "Made up by titlesmith's sample grammar; no real paper",
        }
    yield pl.DataFrame(list(rows.values()))
