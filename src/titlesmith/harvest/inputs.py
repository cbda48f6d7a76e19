"""Input files of sources: plain, gzip, xz or zip, one file or a folder, read in blocks."""

import codecs
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from titlesmith.errors import RequestError
from titlesmith.runs import list_files, root

PACKED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}  # by the first bytes
ZIP = b"PK\x03\x04"
JUNK = re.compile(r"(?:^|/)(?:\.|__MACOSX/|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)  # written by file managers
MARK = "\udcff"  # replaces bytes that cannot be decoded; no decoder produces it otherwise
codecs.register_error("titlesmith.mark", lambda error: (MARK, error.end))
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)  # the last: a password


def find(settings: dict, folder: bool = False) -> Path:
    """The file at ``settings["path"]``, or a folder for sources that read folders (RequestError if missing)."""
    reads = f"harvest.path: source {settings['source']} reads a file{' or a folder' * folder}, and"
    if not settings["path"]:
        raise RequestError(f"{reads} no path is given: add -p harvest.path=FILE")
    path = root() / settings["path"]
    if not (path.is_file() or (folder and path.is_dir())):
        raise RequestError(f"{reads} {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    return path


def opened(path: Path, encoding: str = "utf-8") -> Iterator[tuple[str, BinaryIO]]:
    """The text files at ``path`` with their names, unpacked and in UTF-8; each is open until the next one.

    Parameters
    ----------
    path
        A file, or a folder of them. Empty files in a folder or a zip are skipped.
    encoding
        Their encoding, unless a byte order mark or zero bytes show UTF-16 or UTF-32. Bytes that cannot be decoded stay
        invalid in UTF-8: `decoded` replaces them by `MARK`.

    Raises
    ------
    RequestError
        There is no file, or it is empty or damaged; reading from one raises it too.
    """
    found = [file for file in list_files(path) if file == path or file.stat().st_size]
    if not found:
        raise RequestError(f"harvest.path: {path} holds no file")
    for file in found:
        with _damage(file), file.open("rb", buffering=0) as raw, _progress(file) as bar:
            for name, stream in _unpacked(file, raw):
                with io.BufferedReader(
                    _Checked(file, stream, lambda: bar.update(raw.tell() - bar.n)), 1 << 20
                ) as checked:
                    yield name, _in_utf8(checked, encoding, name)


def decoded(stream: BinaryIO) -> io.TextIOWrapper:
    """The text of a stream of `opened`, with unchanged line ends."""
    return io.TextIOWrapper(stream, "utf-8", "titlesmith.mark", newline="")


def _in_utf8(stream: io.BufferedReader, encoding: str, name: str) -> io.BufferedReader:
    detected = json.detect_encoding(stream.peek(4)[:4])  # by a byte order mark, or by zero bytes
    if detected == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
        return stream
    encoding = encoding if detected == "utf-8" else detected
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        return stream
    return io.BufferedReader(_Recoded(stream, encoding, name), 1 << 20)


def _progress(file: Path) -> tqdm:
    """A progress bar of the bytes read, shown after two seconds."""
    return tqdm(total=file.stat().st_size, desc=file.name, unit="B", unit_scale=True, delay=2, mininterval=0.5)


def _unpacked(file: Path, raw: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    start = raw.read(8)
    raw.seek(0)
    if not start:
        raise RequestError(f"harvest.path: {file} is empty")
    if start.startswith(ZIP):
        packed = zipfile.ZipFile(raw)
        if "[Content_Types].xml" in packed.namelist():
            raise RequestError(f"harvest.path: {file} is an Office document; save its table as CSV and name that file")
        members = [m.filename for m in packed.infolist() if m.file_size and not JUNK.search(m.filename)]
        if not members:
            raise RequestError(f"harvest.path: {file} holds no file")
        yield from ((f"{file.name}/{member}", packed.open(member)) for member in members)
    else:
        yield file.name, next((unpack(raw) for magic, unpack in PACKED.items() if start.startswith(magic)), raw)


class _Checked(io.RawIOBase):
    """A file that reports damage and progress."""

    def __init__(self, path: Path, stream: BinaryIO, advance: Callable[[], None]):
        self._path, self._stream, self._advance = path, stream, advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        with _damage(self._path):
            count = self._stream.readinto(buffer)
        self._advance()
        return count


class _Recoded(io.RawIOBase):
    """A text file of another encoding as UTF-8, with the byte 0xFF for each `MARK`."""

    def __init__(self, stream: BinaryIO, encoding: str, name: str):
        self._text = io.TextIOWrapper(stream, encoding, "titlesmith.mark", newline="")
        self._encoding, self._name = encoding, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            content = self._text.read(len(buffer) // 4).encode("utf-8", "surrogateescape")
        except UnicodeError as error:  # that error handlers do not see, such as UTF-16 without a byte order mark
            raise RequestError(f"harvest.encoding: {self._name} is not {self._encoding}: {error}") from None
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise RequestError(f"harvest.path: {path} cannot be read: {error}") from None
