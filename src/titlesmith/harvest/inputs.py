"""Files that sources read: plain, gzip, xz or zip, one or a folder of them, never whole in memory."""

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from titlesmith.errors import RequestError
from titlesmith.run import files, root

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
        for name, stream in _unpacked(file):
            with io.BufferedReader(_Checked(file, stream), 1 << 20) as checked:
                yield name, checked


def _unpacked(file: Path) -> Iterator[tuple[str, BinaryIO]]:
    with _damage(file):
        with file.open("rb") as stream:
            start = stream.read(8)
        if not start:
            raise RequestError(f"harvest.path: {file} is empty")
        if start.startswith(ZIP):
            packed = zipfile.ZipFile(file)
            members = [m.filename for m in packed.infolist() if not m.is_dir() and "__MACOSX" not in m.filename]
            yield from ((f"{file.name}/{member}", packed.open(member)) for member in members)
        else:
            unpack = next((unpack for magic, unpack in PACKED.items() if start.startswith(magic)), open)
            yield file.name, unpack(file, "rb")


class _Checked(io.RawIOBase):
    """A file that says what is wrong with it when it cannot be read."""

    def __init__(self, path: Path, stream: BinaryIO):
        self._path, self._stream = path, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        with _damage(self._path):
            return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise RequestError(f"harvest.path: {path} cannot be read: {error}") from None
