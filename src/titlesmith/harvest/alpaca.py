"""Source ``alpaca``: instructions in the format of alpaca-lora and ChatGenTitle, a JSON list or JSON lines."""

import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

import polars as pl

from titlesmith.errors import shorten
from titlesmith.harvest import inputs
from titlesmith.harvest.schema import Faults

AHEAD = 1 << 20  # characters read before an object is parsed; the maximum length of an object
BATCH = 10_000  # papers
OBJECT = re.compile(r'\{\s*"')  # its beginning
KEYS = {"title": "output", "abstract": "input", "instruction": "instruction"}  # as in ChatGenTitle's data


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``. Counts objects that cannot be parsed or have no output in ``faults``."""
    yield from inputs.read_files(settings, partial(_read_objects, faults))


def _read_objects(faults: Faults, name: str, text: TextIO) -> Iterator[pl.DataFrame]:
    rows = _rows(faults, name, text)
    while batch := list(islice(rows, BATCH)):
        yield pl.DataFrame(batch, dict.fromkeys(KEYS, pl.String), orient="row")


def _rows(faults: Faults, name: str, text: TextIO) -> Iterator[list[str]]:
    """The texts of `KEYS`; an object that cannot be parsed ends where the next one that can be begins."""
    parse = json.JSONDecoder().raw_decode
    buffer, position = text.read(AHEAD), 0
    while start := OBJECT.search(buffer, position):
        try:
            value, position = parse(buffer, start.start())
        except (ValueError, RecursionError):
            position = start.end()
            faults.add("no JSON object", f"{name}: {shorten(buffer[start.start() : position + 80])}")
        else:
            row = [value.get(key) or "" for key in KEYS.values()]
            if "output" in value and all(isinstance(field, str) for field in row):
                yield [field.encode("utf-8", "replace").decode() for field in row]  # half of an escaped pair becomes ?
            else:
                faults.add("no text as output", f"{name}: {shorten(value)}")
        if len(buffer) - position < AHEAD:  # so that the buffer has a complete object
            buffer, position = buffer[position:] + text.read(AHEAD), 0
