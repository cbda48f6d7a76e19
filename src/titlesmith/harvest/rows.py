"""Rows of comma- or tab-separated text, read in batches, with the lines of faults.

It uses Python's reader, which knows the line of a row. If an unmatched quote joins several lines, only the first is
lost.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest.faults import LINE, Faults, at
from titlesmith.harvest.inputs import MARK, decoded

BATCH = 10_000  # rows
AHEAD = 100  # lines searched for the header and the delimiter
DELIMITERS = ",;\t|"
DECLARED = re.compile(r'"?sep=(.)"?[,;\t|\s]*', re.IGNORECASE)  # Excel's declaration of the delimiter
csv.field_size_limit(1 << 24)  # characters of a cell; an unmatched quote joins no more than this


class Lines:
    """The lines of a text file, some of which can be given back.

    Parameters
    ----------
    stream
        The file in UTF-8, as `titlesmith.harvest.inputs.opened` has it.
    encoding
        Its original encoding, for messages. Bytes that cannot be decoded become U+FFFD and are counted in ``faults``.

    Attributes
    ----------
    number
        The number of the last line read, counted from 1.
    taken
        The lines read since the last `start`.
    """

    def __init__(self, stream: BinaryIO, name: str, encoding: str, faults: Faults):
        self._text = decoded(stream)
        self._name, self._encoding, self._faults = name, encoding.removesuffix("-sig"), faults
        self.number = 0
        self.taken: list[str] = []
        self._back: deque[str] = deque()

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._text)
        self.number += 1
        if MARK in line:
            line = line.replace(MARK, "\ufffd")
            reason = f"bytes that are not {self._encoding} (see harvest.encoding)"
            self._faults.add(reason, at(self._name, self.number, line))
        self.taken.append(line)
        return line

    def start(self) -> int:
        """Begins a row; returns the number of its first line."""
        self.taken = []
        return self.number + 1

    def give_back(self, keep: int) -> None:
        """Gives back all lines read since `start` except the first ``keep``."""
        self.taken, back = self.taken[:keep], self.taken[keep:]
        self._back.extendleft(reversed(back))
        self.number -= len(back)


class Rows:
    """The rows of a table with a header.

    Parameters
    ----------
    stream, name, encoding, faults
        As in `Lines`.
    delimiter
        The separator of columns; "" to detect it from the first lines.

    Attributes
    ----------
    header
        The unique names of the columns.
    """

    def __init__(self, stream: BinaryIO, name: str, faults: Faults, encoding: str = "utf-8", delimiter: str = ""):
        self._name, self._faults = name, faults
        self._lines = Lines(stream, name, encoding, faults)
        # Skip empty lines before the header, and the line with which Excel declares the delimiter
        ahead = list(islice(self._lines, AHEAD))
        skipped, declared = 0, ""
        for line in ahead:
            if found := DECLARED.fullmatch(line.rstrip("\r\n")):
                declared = found[1]
            elif line.strip(DELIMITERS + " \r\n"):
                break
            skipped += 1
        self._lines.give_back(skipped)
        self._dialect = {"delimiter": delimiter or declared or _detect(ahead[skipped:]), "skipinitialspace": True}
        self._reader = csv.reader(self._lines, strict=True, **self._dialect)
        try:
            names = next(self._reader, [])
        except csv.Error as error:
            raise RequestError(f"harvest.path: {name} does not begin with the header of a table: {error}") from None
        self.header: list[str] = []
        for number, title in enumerate(names, 1):
            title = title.strip() or f"column {number}"
            self.header.append(title if title not in (LINE, *self.header) else f"{title} {number}")

    def batches(self) -> Iterator[pl.DataFrame]:
        """The rows as text, with their numbers in `LINE`; empty cells are null. Rows of another width are counted."""
        rows = self._rows()
        while batch := list(islice(rows, BATCH)):
            columns = zip((LINE, *self.header), zip(*batch, strict=True), strict=True)
            table = pl.DataFrame([pl.Series(name, values) for name, values in columns])
            yield table.with_columns(pl.col(pl.String).replace("", None))

    def _rows(self) -> Iterator[list]:
        width = len(self.header)
        while True:
            number = self._lines.start()
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error:  # an unmatched quote: read the line as if it were text
                self._lines.give_back(1)
                row = self._leniently(self._lines.taken[0])
            if not any(row) and '"' not in self._lines.taken[0]:
                continue  # an empty line; Excel writes only the delimiters
            if len(row) == width:
                yield [number, *row]
            else:
                what = at(self._name, number, self._lines.taken[0])
                self._faults.add("wrong number of columns", f"{what}: {len(row)} instead of {width}")
                self._lines.give_back(1)

    def _leniently(self, line: str) -> list[str]:
        try:
            return next(csv.reader([line], **self._dialect))
        except csv.Error:  # a cell longer than the limit
            return [line]


def _detect(lines: list[str]) -> str:
    """The delimiter that splits most rows into as many columns as the first row, if these are more than one."""

    def alike(delimiter: str) -> tuple[int, int]:
        reader, widths = csv.reader(lines, delimiter=delimiter, skipinitialspace=True), []
        with suppress(StopIteration):
            while True:
                with suppress(csv.Error):
                    widths.append(len(next(reader)))
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    best = max(DELIMITERS, key=alike)
    return best if alike(best) > (0, 0) else "\x1f"  # one column: a character that texts do not contain
