"""Writing of papers: batches are spooled to disk, then merged into one sorted table with each id once.

The spool is an external merge sort. Batches are sorted in memory and stored one by one; only the keys of all papers
stay in memory (about 80 bytes per paper). The sorted keys state which rows of which batches form each part of the
table.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from inspect import signature
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from titlesmith.errors import RunError
from titlesmith.runs import replacing, write_json

BATCH_BYTES = 32 << 20  # of a stored batch, and of a row group of the table, in memory
COMPRESSION_LEVEL = 1  # of zstd: the default 3 makes the table an eighth smaller and takes 1.5 times as long
POSITION = "(position)"  # column: the order in which papers were added

# A part of a batch is read without the rest, if this version of polars can write batches in pieces
PIECES = {"record_batch_size": 4096} if "record_batch_size" in signature(pl.DataFrame.write_ipc).parameters else {}


class Spool:
    """Papers on their way to a table: a context manager that stores batches in ``folder`` and removes it at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.schema: dict[str, pl.DataType] = {}
        self.num_rows = 0
        self._bytes = self._pending_bytes = 0  # in memory, of all batches and of those not stored yet
        self._pending: list[pl.DataFrame] = []
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
        self._bytes += batch.estimated_size()
        self._pending_bytes += batch.estimated_size()
        if self._pending_bytes >= BATCH_BYTES:
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
        group = max(1, BATCH_BYTES * self.num_rows // (self._bytes + 1))  # rows

        def parts(columns: object, predicate: object, limit: object, size: object) -> Iterator[pl.DataFrame]:
            return (self._part(part) for part in rows.iter_slices(group))

        with replacing(path) as temporary, writing(path):
            register_io_source(parts, schema=self.schema).sink_parquet(
                temporary, row_group_size=group, compression_level=COMPRESSION_LEVEL
            )
        return keys.height

    def _store(self) -> None:
        batch = pl.concat(self._pending, how="diagonal").sort("published", "id")
        number, path = len(self._keys), self._path(len(self._keys))
        self._pending, self._pending_bytes = [], 0
        with writing(path):
            batch.drop(POSITION).write_ipc(path, **PIECES)
        row = {"file": pl.lit(number, pl.UInt32), "row": pl.int_range(pl.len(), dtype=pl.UInt32)}
        self._keys.append(batch.select("id", "published", "updated", POSITION, **row))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"

    def _part(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The papers with these keys, sorted. In a stored batch they are adjacent, except for dropped ones."""
        parts = [pl.DataFrame(schema=self.schema)]
        for (number,), rows in keys.group_by("file"):
            first, last = rows["row"].min(), rows["row"].max()
            batch = pl.scan_ipc(self._path(number)).slice(first, last - first + 1).collect()
            parts.append(batch if batch.height == rows.height else batch[rows["row"] - first])
        return pl.concat(parts, how="diagonal").sort("published", "id")


def write_parquet(path: Path, rows: pl.DataFrame, **metadata: str) -> None:
    """Writes a Parquet file, complete or not at all (RunError: disk full)."""
    with replacing(path) as temporary, writing(path):
        rows.write_parquet(temporary, metadata=metadata)


def keep_first_day(folder: Path, day: date) -> None:
    """Keeps in ``folder`` the day of a harvest's first request, unless it is there: an update starts from there."""
    path = folder / "state.json"
    if not path.exists():
        write_json(path, {"asked": day.isoformat()})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Adds a remedy to errors of a full disk and the like (RunError)."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        raise RunError(f"{path} cannot be written: {error}. Free some space and run it again") from error
