"""Files that sources read: plain, gzip, xz or zip, one or a folder of them, never whole in memory."""

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from titlesmith.errors import RequestError
from titlesmith.runs.record import files, root

PACKED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}  # how a file begins: what unpacks it
ZIP = b"PK\x03\x04"
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)  # the last: a password


def find(settings: dict, folder: bool = False) -> Path:
    """The file at ``settings["path"]`` or, where a source takes one, the folder (RequestError: there is none)."""
    reads = f"harvest.path: source {settings['source']} reads a file{' or a folder' * folder}, and"
    if not settings["path"]:
        raise RequestError(f"{reads} no path is given: add -p harvest.path=FILE")
    path = root() / settings["path"]
    if not (path.is_file() or (folder and path.is_dir())):
        raise RequestError(f"{reads} {path} is {'a folder' if path.is_dir() else 'none'}")
    return path


def opened(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """The files at ``path`` with their names, unpacked, in order; each is open until the next is asked for.

    Raises
    ------
    RequestError
        There is none, or it is empty or damaged; reading from one raises it too.
    """
    found = files(path)
    if not found:
        raise RequestError(f"harvest.path: {path} holds no file")
    for file in found:
        with _damage(file), file.open("rb", buffering=0) as raw, _progress(file) as bar:
            for name, stream in _unpacked(file, raw):
                with io.BufferedReader(
                    _Checked(file, stream, lambda: bar.update(raw.tell() - bar.n)), 1 << 20
                ) as checked:
                    yield name, checked


def _progress(file: Path) -> tqdm:
    """Bytes read of a file, shown when it takes more than a moment."""
    return tqdm(total=file.stat().st_size, desc=file.name, unit="B", unit_scale=True, delay=2, mininterval=0.5)


def _unpacked(file: Path, raw: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    start = raw.read(8)
    raw.seek(0)
    if not start:
        raise RequestError(f"harvest.path: {file} is empty")
    if start.startswith(ZIP):
        packed = zipfile.ZipFile(raw)
        members = [m.filename for m in packed.infolist() if not m.is_dir() and "__MACOSX" not in m.filename]
        yield from ((f"{file.name}/{member}", packed.open(member)) for member in members)
    else:
        yield file.name, next((unpack(raw) for magic, unpack in PACKED.items() if start.startswith(magic)), raw)


class _Checked(io.RawIOBase):
    """A file that says what is wrong with it when it cannot be read, and how far it was read."""

    def __init__(self, path: Path, stream: BinaryIO, advance: Callable[[], None]):
        self._path, self._stream, self._advance = path, stream, advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        with _damage(self._path):
            count = self._stream.readinto(buffer)
        self._advance()
        return count


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise RequestError(f"harvest.path: {path} cannot be read: {error}") from None
