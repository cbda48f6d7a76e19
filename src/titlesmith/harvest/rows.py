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
from typing import TextIO

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest.faults import LINE, Faults, at
from titlesmith.harvest.inputs import MARK

BATCH = 10_000  # rows
AHEAD = 100  # lines searched for the header and the delimiter
DELIMITERS = ",;\t|"
DECLARED = re.compile(r'"?sep=(.)"?[,;\t|\s]*', re.IGNORECASE)  # Excel's declaration of the delimiter
csv.field_size_limit(1 << 24)  # characters of a cell; an unmatched quote joins no more than this


class Rows:
    """The rows of a table with a header, whose columns have unique names.

    Bytes that cannot be decoded become U+FFFD and are counted in ``faults``. The default ``delimiter`` is detected from
    the first lines.
    """

    def __init__(self, text: TextIO, name: str, faults: Faults, delimiter: str = ""):
        self._text, self._name, self._faults = text, name, faults
        self._number = 0  # of the last line read
        self._row_lines: list[str] = []  # of the current row
        self._returned: deque[str] = deque()  # lines to be read once more
        # Skip empty lines before the header, and the line with which Excel declares the delimiter
        ahead = list(islice(self._lines(), AHEAD))
        skipped = 0
        for line in ahead:
            if declared := DECLARED.fullmatch(line.rstrip("\r\n")):
                delimiter = delimiter or declared[1]
            elif line.strip(DELIMITERS + " \r\n"):
                break
            skipped += 1
        self._return_lines(keep=skipped)
        # Read the header; columns without a name or with the name of another one are numbered
        try:
            self._dialect = {"delimiter": delimiter or _detect(ahead[skipped:]), "skipinitialspace": True}
            self._reader = csv.reader(self._lines(), strict=True, **self._dialect)
            names = next(self._reader, [])
        except csv.Error as error:
            raise RequestError(f"harvest.path: {name} does not begin with the header of a table: {error}") from None
        self.header: list[str] = []
        for number, title in enumerate(names, 1):
            title = title.strip() or f"column {number}"
            self.header.append(title if title not in (LINE, *self.header) else f"{title} {number}")

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yields the rows as text, with line numbers in `LINE`; empty cells are null. Counts rows of another width."""
        rows = self._rows()
        while batch := list(islice(rows, BATCH)):
            columns = zip((LINE, *self.header), zip(*batch, strict=True), strict=True)
            table = pl.DataFrame([pl.Series(name, values) for name, values in columns])
            yield table.with_columns(pl.col(pl.String).replace("", None))

    def _rows(self) -> Iterator[list]:
        width = len(self.header)
        while True:
            number, self._row_lines = self._number + 1, []
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error:  # an unmatched quote: read the first line as if it were text
                self._return_lines(keep=1)
                row = self._row_lines[:1]
                with suppress(csv.Error):  # a cell longer than the limit
                    row = next(csv.reader(row, **self._dialect))
                self._reader = csv.reader(self._lines(), strict=True, **self._dialect)
            first = self._row_lines[0]
            if not any(row) and '"' not in first:
                continue  # an empty line; Excel writes only the delimiters
            if len(row) == width:
                yield [number, *row]
            else:
                example = f"{at(self._name, number, first)}: {len(row)} instead of {width}"
                self._faults.add("wrong number of columns", example)
                self._return_lines(keep=1)

    def _lines(self) -> Iterator[str]:
        while (line := self._returned.popleft() if self._returned else next(self._text, None)) is not None:
            self._number += 1
            if MARK in line:
                line = line.replace(MARK, "\ufffd")
                reason = f"bytes that are not {self._text.encoding} (see harvest.encoding)"
                self._faults.add(reason, at(self._name, self._number, line))
            self._row_lines.append(line)
            yield line

    def _return_lines(self, keep: int) -> None:
        """Makes all lines of the current row, except the first ``keep``, the next lines to be read."""
        self._row_lines, again = self._row_lines[:keep], self._row_lines[keep:]
        self._returned.extendleft(reversed(again))
        self._number -= len(again)


def _detect(lines: list[str]) -> str:
    """The delimiter that splits most rows into as many columns as the first row, if these are more than one."""

    def alike(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    best = max(DELIMITERS, key=alike)
    return best if alike(best) > (0, 0) else "\x1f"  # one column: a character that texts do not contain
