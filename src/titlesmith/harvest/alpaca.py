"""Source ``alpaca``: instructions in the format of alpaca-lora and ChatGenTitle, a JSON list or JSON lines.

Each object has ``instruction``, ``input`` and ``output``: in ChatGenTitle's data, the input is an abstract and the
output its title.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

import polars as pl

from titlesmith.harvest import inputs
from titlesmith.harvest.faults import Faults, at
from titlesmith.harvest.schema import row_ids

AHEAD = 1 << 20  # characters read before an object is parsed; the maximum length of an object
BATCH = 10_000  # papers
COLUMNS = {"abstract": pl.String, "title": pl.String, "instruction": pl.String}
BETWEEN = re.compile(r"[\s,\[\]]*")  # objects, in a list or line by line
# The beginning of the next object after one that cannot be parsed, even if its end is missing
NEXT = re.compile(r'(?:[}\n]\s*,?\s*)?(?=\{\s*"(?:instruction|input|output)"\s*:)|[}\n]\s*,?\s*(?=\{)')
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: an invalid byte, or half of an escaped pair


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; the instruction is an extra column, and the id is the number of the paper.

    Other values than objects with an output and an input or an instruction are counted in ``faults``.
    """
    number = 0
    for name, text in inputs.opened(inputs.find(settings), settings.get("encoding", "utf-8")):
        records = _records(text, name, faults)
        while batch := list(islice(records, BATCH)):
            yield pl.DataFrame(batch, COLUMNS, orient="row").with_columns(id=row_ids(number))
            number += len(batch)


def _records(text: TextIO, name: str, faults: Faults) -> Iterator[tuple[str, str, str]]:
    """Input, output and instruction of each object."""
    parse = json.JSONDecoder().raw_decode
    buffer, position, line = "", 0, 1
    while True:
        # Read on until the buffer holds a complete object, and skip what separates objects
        if len(buffer) - position < AHEAD and (more := text.read(AHEAD)):
            buffer, position = buffer[position:] + more, 0
        start = BETWEEN.match(buffer, position).end()
        line += buffer.count("\n", position, start)
        if start == len(buffer):
            if position == start:
                return
            position = start
            continue
        # Parse it; what cannot be parsed ends where the next object begins
        try:
            value, position = parse(buffer, start)
        except (ValueError, RecursionError):
            following = NEXT.search(buffer, start + 1)
            value, position = None, following.end() if following else len(buffer)
        source = buffer[start:position]
        value = value if isinstance(value, dict) else {}
        # An instruction may need no input
        given = value.get("input") if value.get("input") is not None or not value.get("instruction") else ""
        fields = [given, value.get("output")]
        if all(isinstance(field, str) for field in fields):
            fields.append(str(value.get("instruction") or ""))
            if any(map(SURROGATE.search, fields)):
                faults.add("invalid characters", at(name, line, source))
            yield tuple(SURROGATE.sub("\ufffd", field) for field in fields)
        else:
            faults.add("no object with input and output", at(name, line, source))
        line += source.count("\n")
