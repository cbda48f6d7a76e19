"""Rows of comma- or tab-separated text, read in batches, with the lines of faults."""

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import TextIO

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest.faults import LINE, Faults, at
from titlesmith.harvest.inputs import MARK

BATCH = 10_000  # rows
DELIMITERS = ",;\t|"
ONE_COLUMN = "\x1f"  # a delimiter that texts do not contain
csv.field_size_limit(1 << 24)  # characters of a cell; an unmatched quote joins no more than this


class Rows:
    """The rows of a table with a header, whose columns have unique names.

    Bytes that cannot be decoded become U+FFFD and are counted in ``faults``. The default ``delimiter`` is the most
    frequent one in the header.
    """

    def __init__(self, text: TextIO, name: str, faults: Faults, delimiter: str = ""):
        self._text, self._name, self._faults = text, name, faults
        self._number = 0  # of the last line read
        self._row_lines: list[str] = []  # of the current row
        lines = self._lines()
        first = next((line for line in lines if line.strip(DELIMITERS + " \r\n")), "")
        unquoted = re.sub('"[^"]*"', "", first)
        best = delimiter or max(DELIMITERS, key=unquoted.count)
        self._dialect = {"delimiter": best if best in unquoted else ONE_COLUMN, "skipinitialspace": True}
        self._reader = csv.reader(chain([first], lines), strict=True, **self._dialect)
        try:
            names = next(self._reader, [])
        except csv.Error as error:
            raise RequestError(f"harvest.path: {name} does not begin with the header of a table: {error}") from None
        # Columns without a name or with the name of another one are numbered
        self.header: list[str] = []
        for number, title in enumerate(names, 1):
            title = title.strip() or f"column {number}"
            self.header.append(title if title not in (LINE, *self.header) else f"{title} {number}")

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yields the rows as text, with line numbers in `LINE`; empty cells are null. Counts rows of another width."""
        rows = self._rows()
        while batch := list(islice(rows, BATCH)):
            table = pl.DataFrame(batch, {LINE: pl.Int64} | dict.fromkeys(self.header, pl.String), orient="row")
            yield table.with_columns(pl.col(pl.String).replace("", None))

    def _rows(self) -> Iterator[list]:
        """Rows with the numbers of their lines; rows without text are skipped.

        An unmatched quote joins lines, until an error or a row of another width. Then each line is read separately.
        """
        width = len(self.header)
        while True:
            number, self._row_lines = self._number + 1, []
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error:
                row = []
            if len(row) == width and any(row):
                yield [number, *row]
                continue
            for line in self._row_lines:
                row = [line]
                with suppress(csv.Error):  # a cell longer than the limit
                    row = next(csv.reader([line], **self._dialect))
                if any(row) and len(row) == width:
                    yield [number, *row]
                elif any(row):
                    example = f"{at(self._name, number, line)}: {len(row)} instead of {width}"
                    self._faults.add("wrong number of columns", example)
                number += 1

    def _lines(self) -> Iterator[str]:
        for line in self._text:
            self._number += 1
            if MARK in line:
                line = line.replace(MARK, "\ufffd")
                reason = f"bytes that are not {self._text.encoding} (see harvest.encoding)"
                self._faults.add(reason, at(self._name, self._number, line))
            self._row_lines.append(line)
            yield line
