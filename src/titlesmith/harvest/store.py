"""The spool: papers on disk until all are read, then written as one sorted table, each id once.

It is an external merge sort. Batches are sorted in memory and stored one by one; of all papers only the keys stay in
memory (about 80 bytes a paper). The sorted keys say which rows of which batches make each part of the table.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from titlesmith.errors import RunError
from titlesmith.runs import replacing

SIZE = 32 << 20  # bytes of a stored batch, and of a row group of the table, in memory
LEVEL = 1  # of zstd: the usual 3 makes the table an eighth smaller and takes half as long again
KEYS = ("id", "published", "updated")
READ = "(read)"  # the place in which a paper was added


class Spool:
    """Papers on their way to a table; a context manager that removes what it stored.

    Parameters
    ----------
    folder
        Where batches are stored meanwhile, uncompressed about the size of the table; it is emptied first.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.schema: dict[str, pl.DataType] = {}
        self.rows = 0
        self._size = self._due = 0  # bytes in memory, of all and of those that wait
        self._waiting: list[pl.DataFrame] = []
        self._keys: list[pl.DataFrame] = []

    def __enter__(self) -> "Spool":
        shutil.rmtree(self.folder, ignore_errors=True)  # of a process that was killed
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, batch: pl.DataFrame) -> None:
        """Takes a batch with at least the columns ``id``, ``published`` and ``updated`` (RunError: no space)."""
        self.schema |= {name: kind for name, kind in batch.schema.items() if name not in self.schema}
        self._waiting.append(batch.with_row_index(READ, self.rows))
        self.rows += batch.height
        self._size += batch.estimated_size()
        self._due += batch.estimated_size()
        if self._due >= SIZE:
            self._store()

    def _store(self) -> None:
        batch = pl.concat(self._waiting, how="diagonal").sort("published", "id")
        self._waiting, self._due = [], 0
        number, path = len(self._keys), self._path(len(self._keys))
        with writing(path):
            batch.drop(READ).write_ipc(path, record_batch_size=4096)
        place = {"file": pl.lit(number, pl.UInt32), "row": pl.int_range(pl.len(), dtype=pl.UInt32)}
        self._keys.append(batch.select(*KEYS, READ, **place))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"

    def write(self, path: Path, newest: int = 0) -> int:
        """Writes the table, sorted by ``published`` (unknown dates first) and ``id``.

        Of papers with the same id the one with the latest ``updated`` stays; of those the one that was added last.

        Parameters
        ----------
        path
            Of the Parquet file, which is replaced when the new one is whole.
        newest
            Write only this many; 0 for all.

        Returns
        -------
        int
            How many different papers there are.
        """
        if self._waiting:
            self._store()
        keys = pl.concat(self._keys).sort("updated", READ).unique("id", keep="last").sort("published", "id")
        different = keys.height
        keys = keys.select("file", "row").tail(newest or different)
        rows = max(1, SIZE * self.rows // (self._size + 1))  # of a row group

        def parts(columns: object, predicate: object, limit: object, size: object) -> Iterator[pl.DataFrame]:
            return (self._part(part) for part in keys.iter_slices(rows))

        with replacing(path) as temporary, writing(path):
            register_io_source(parts, schema=self.schema).sink_parquet(
                temporary, row_group_size=rows, compression_level=LEVEL
            )
        return different

    def _part(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The papers at these places, sorted. In a stored batch they stand in a row, but for those left out."""
        found = []
        for (number,), places in keys.group_by("file"):
            first, last = places["row"].min(), places["row"].max()
            batch = pl.scan_ipc(self._path(number)).slice(first, last - first + 1).collect()
            found.append(batch if batch.height == places.height else batch[places["row"] - first])
        found = pl.concat(found, how="diagonal").sort("published", "id")
        absent = [pl.lit(None, kind).alias(name) for name, kind in self.schema.items() if name not in found.columns]
        return found.with_columns(absent).select(*self.schema)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of a full disk and the like what to do about it."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        raise RunError(f"{path} cannot be written: {error}. Free some space and run it again") from error
