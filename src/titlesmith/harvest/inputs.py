"""Input files of sources: plain, gzip, xz or zip, one file or a folder, read in blocks."""

import codecs
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from polars.exceptions import PolarsError
from tqdm import tqdm

from titlesmith.errors import RequestError
from titlesmith.runs import list_files, root

PACKED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}  # by the first bytes
ZIP = b"PK\x03\x04"
JUNK = re.compile(r"(?:^|/)(?:\.|__MACOSX/|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)  # written by file managers
BUFFER_BYTES = 1 << 20
MARK = "\udcff"  # replaces bytes that cannot be decoded; no decoder produces it otherwise
codecs.register_error("titlesmith.mark", lambda error: (MARK, error.end))
DAMAGE = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, PolarsError)


def find(settings: dict, folder: bool = False) -> list[Path]:
    """The file ``settings["path"]``, or those of a ``folder`` that are not empty (RequestError: there is none)."""
    reads = f"harvest.path: source {settings['source']} reads a file{' or a folder' * folder}, and"
    if not settings["path"]:
        raise RequestError(f"{reads} no path is given: add -p harvest.path=FILE")
    path = root() / settings["path"]
    if not (path.is_file() or (folder and path.is_dir())):
        raise RequestError(f"{reads} {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    files = [file for file in list_files(path) if file == path or file.stat().st_size]
    if not files:
        raise RequestError(f"harvest.path: {path} contains no file")
    return files


def opened(files: list[Path], encoding: str = "utf-8") -> Iterator[tuple[str, TextIO]]:
    """Yields the names and the text of files, with unchanged line ends.

    Packed files are unpacked, empty ones in a zip skipped. Each is open until the next one is requested. A byte order
    mark, or zero bytes as in UTF-16, override ``encoding``; `MARK` replaces bytes that cannot be decoded. RequestError,
    also from reading: a file is empty or damaged.
    """
    for file in files:
        bar = tqdm(total=file.stat().st_size, desc=file.name, unit="B", unit_scale=True, delay=2)  # of packed bytes
        with bar, naming(file), file.open("rb", buffering=0) as raw:
            for name, stream in _unpacked(file, raw):
                checked = _Checked(file, stream, raw, bar)
                with io.BufferedReader(checked, BUFFER_BYTES) as buffer:
                    yield name, _decoded(buffer, encoding, name)


def _unpacked(file: Path, raw: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    start = raw.read(8)
    raw.seek(0)
    if not start:
        raise RequestError(f"harvest.path: {file} is empty")
    if not start.startswith(ZIP):
        yield file.name, next((unpack(raw) for magic, unpack in PACKED.items() if start.startswith(magic)), raw)
        return
    packed = zipfile.ZipFile(raw)
    members = [member.filename for member in packed.infolist() if member.file_size and not JUNK.search(member.filename)]
    if not members:
        raise RequestError(f"harvest.path: {file} contains no file")
    yield from ((f"{file.name}/{member}", packed.open(member)) for member in members)


def _decoded(buffer: io.BufferedReader, encoding: str, name: str) -> TextIO:
    start = buffer.peek(8)[:8]
    detected = json.detect_encoding(start)  # by a byte order mark, or by zero bytes
    encoding = encoding if detected == "utf-8" else detected
    try:  # errors that handlers do not see, such as UTF-16 without a byte order mark
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)("titlesmith.mark").decode(start)
    except LookupError:
        common = "common ones are utf-8, utf-16, latin-1, cp1252"
        raise RequestError(f"harvest.encoding: {encoding!r} is unknown; {common}") from None
    except UnicodeError as error:
        raise RequestError(f"harvest.encoding: {name} is not {encoding}: {error}") from None
    text = io.TextIOWrapper(buffer, encoding, "titlesmith.mark", newline="")
    text._CHUNK_SIZE = BUFFER_BYTES
    return text


class _Checked(io.RawIOBase):
    """A file that reports damage and progress."""

    def __init__(self, path: Path, stream: BinaryIO, packed: BinaryIO, bar: tqdm):
        self._path, self._stream, self._packed, self._bar = path, stream, packed, bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        with naming(self._path):
            count = self._stream.readinto(buffer)
        self._bar.update(self._packed.tell() - self._bar.n)
        return count


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns errors of a damaged file into one that names it (RequestError)."""
    try:
        yield
    except DAMAGE as error:
        raise RequestError(f"harvest.path: {path} cannot be read: {error}") from None
