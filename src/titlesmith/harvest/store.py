"""Writing of papers: batches are spooled to disk, then merged into one sorted table with each id once.

The spool is an external merge sort: batches are sorted and stored one by one, and only the keys of all papers stay in
memory (about 80 bytes per paper). The sorted keys state which rows of which batches form each part of the table.
"""

import json
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from titlesmith.errors import RunError
from titlesmith.runs import replacing, write_json

ROWS = 20_000  # of a stored batch, and of a row group of the table: 32 MB with abstracts
PIECE = 4096  # rows of a stored batch that are read together
POSITION = "(position)"  # column: the order in which papers were added


class Spool:
    """Papers on their way to a table: a context manager that stores batches in ``folder`` and removes it at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.schema: dict[str, pl.DataType] = {}
        self.num_rows = 0
        self._pending: list[pl.DataFrame] = []  # batches that are not stored yet
        self._keys: list[pl.DataFrame] = []

    def __enter__(self) -> "Spool":
        shutil.rmtree(self.folder, ignore_errors=True)  # of a process that was killed
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, batch: pl.DataFrame) -> None:
        """Adds a batch with at least the columns ``id``, ``published`` and ``updated`` (RunError: disk full)."""
        self.schema = self.schema | dict(batch.schema) | self.schema  # new columns last, earlier types
        self._pending.append(batch.with_row_index(POSITION, self.num_rows))
        self.num_rows += batch.height
        if sum(map(len, self._pending)) >= ROWS:
            self._store()

    def write(self, path: Path, newest: int = 0) -> int:
        """Writes the table, sorted by ``published`` (unknown dates first) and ``id``; returns the number of papers.

        Of papers with the same id the one with the latest ``updated`` is kept; of those the one that was added last.
        Only the ``newest`` papers are written (0: all); the number is that of all.
        """
        if self._pending:
            self._store()
        keys = pl.concat(self._keys).sort("updated", POSITION).unique("id", keep="last").sort("published", "id")
        rows = keys.select("file", "row").tail(newest or keys.height)

        def parts(columns: object, predicate: object, limit: object, size: object) -> Iterator[pl.DataFrame]:
            return (self._part(part) for part in rows.iter_slices(ROWS))

        write_parquet(path, register_io_source(parts, schema=self.schema), row_group_size=ROWS)
        return keys.height

    def _store(self) -> None:
        batch, number = pl.concat(self._pending, how="diagonal").sort("published", "id"), len(self._keys)
        write_parquet(self.folder / f"{number:06d}.parquet", batch.drop(POSITION).lazy(), row_group_size=PIECE)
        row = {"file": pl.lit(number, pl.UInt32), "row": pl.int_range(pl.len(), dtype=pl.UInt32)}
        self._keys.append(batch.select("id", "published", "updated", POSITION, **row))
        self._pending.clear()

    def _part(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The papers with these keys, sorted. In a stored batch they are adjacent, except for dropped ones."""
        parts = [pl.DataFrame(schema=self.schema)]
        for (number,), rows in keys.group_by("file"):
            first, last = rows["row"].min(), rows["row"].max()
            batch = pl.scan_parquet(self.folder / f"{number:06d}.parquet").slice(first, last - first + 1).collect()
            parts.append(batch[rows["row"] - first])
        return pl.concat(parts, how="diagonal").sort("published", "id")


def write_parquet(path: Path, rows: pl.LazyFrame, **options: object) -> None:
    """Writes a Parquet file, complete or not at all (RunError: disk full); ``options`` are those of `sink_parquet`."""
    with replacing(path) as temporary:
        try:
            rows.sink_parquet(temporary, compression_level=1, **options)  # the default 3 takes 1.5 times as long
        except (OSError, pl.exceptions.ComputeError) as error:
            raise RunError(f"{path} cannot be written: {error}. Free some space and run it again") from error


def first_day(folder: Path, day: date | None = None) -> str | None:
    """The day of a harvest's first request, from which an update starts. ``day`` is kept in ``folder`` if none is."""
    path = folder / "state.json"
    if day and not path.exists():
        write_json(path, {"requested": day.isoformat()})
    return json.loads(path.read_text("utf-8"))["requested"] if path.exists() else None
