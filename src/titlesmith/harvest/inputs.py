"""Input files of sources: plain, gzip, xz or zip, one file or a folder, read in blocks."""

import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from csv import Error as CsvError
from pathlib import Path
from typing import BinaryIO, TextIO

import polars as pl
from tqdm import tqdm

from titlesmith.errors import RequestError
from titlesmith.runs import list_files, root

PACKED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}  # by the first bytes
ZIP = b"PK\x03\x04"
JUNK = re.compile(r"(?:^|/)(?:\.|__MACOSX/|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)  # written by file managers
DAMAGE = (OSError, EOFError, RuntimeError, UnicodeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
DAMAGE += (CsvError, pl.exceptions.PolarsError)


def find(settings: dict) -> list[Path]:
    """The file ``settings["path"]``, or the files of a folder that are not empty (RequestError: there is none)."""
    path, source = settings["path"] and root() / settings["path"], settings["source"]
    files = [file for file in list_files(path) if file.stat().st_size] if path else []
    if not files:
        missing = f"{path} is missing or empty" if path else "no path is given"
        raise RequestError(f"harvest.path: source {source} reads a file, and {missing}: add -p harvest.path=FILE")
    return files


def read_files(settings: dict, read: Callable[[str, TextIO], Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Yields what ``read(name, text)`` yields for each file of `find`, unpacked; line ends are unchanged.

    U+FFFD replaces bytes that cannot be decoded. RequestError: the encoding is unknown, or a file is damaged.
    """
    for path in find(settings):
        bar = tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=2)  # of packed bytes
        with bar, naming(path), path.open("rb") as raw:
            for name, stream in _unpack(path.name, raw):
                for batch in read(name, _decode(stream, settings["encoding"])):
                    bar.update(raw.tell() - bar.n)
                    yield batch


def _unpack(name: str, raw: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    start = raw.peek(8)
    if not start.startswith(ZIP):
        yield name, next((unpack(raw) for magic, unpack in PACKED.items() if start.startswith(magic)), raw)
        return
    archive = zipfile.ZipFile(raw)
    for member in archive.infolist():
        if member.file_size and not JUNK.search(member.filename):
            yield f"{name}/{member.filename}", archive.open(member)


def _decode(stream: BinaryIO, encoding: str) -> TextIO:
    detected = json.detect_encoding(stream.peek(8)[:8])  # by a byte order mark, or by zero bytes
    try:
        return io.TextIOWrapper(stream, encoding if detected == "utf-8" else detected, "replace", newline="")
    except LookupError as error:
        raise RequestError(f"harvest.encoding: {error}; common ones are utf-8, utf-16, latin-1, cp1252") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns errors of a damaged file into one that names it (RequestError)."""
    try:
        yield
    except DAMAGE as error:
        raise RequestError(f"harvest.path: {path} cannot be read: {error}") from error
