"""Files that survive kills and power failures: written under a temporary name, fsynced, renamed.

A rename counts only after the content that it names is on the disk, and what it replaces is deleted only after the
rename is on the disk. Every writer uses `replacing` (a file), `swapping` (a folder) or `merging` (files of a folder).
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from titlesmith.errors import RunError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fsync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_tree(path: Path) -> None:
    for file in (*path.rglob("*"), path):
        if not file.is_symlink():
            fsync(file)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it exists; a folder in one operation, even if the process is killed."""
    if not path.is_dir() or path.is_symlink():
        return path.unlink(missing_ok=True)
    deleted = path.with_name(f".{path.name.lstrip('.')}.deleted")
    shutil.rmtree(deleted, ignore_errors=True)
    path.replace(deleted)
    fsync(path.parent)
    shutil.rmtree(deleted)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Turns an error of a full disk into one that names the file and the remedy (RunError)."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(next(p for p in path.parents if p.exists())).free
        raise RunError(
            f"{path} cannot be written: {error.strerror}; {free / 1e9:.2f} GB are free. Free some space and run the "
            "same command again: it resumes"
        ) from error


@contextmanager
def replacing(path: Path, is_folder: bool = False) -> Iterator[Path]:
    """Yields a temporary name next to ``path`` and renames it to ``path`` if the block ends without an error.

    If the disk is full (RunError), an older ``path`` is unchanged.
    """
    temporary, old = (path.with_name(f".{path.name}.{state}") for state in ("partial", "old"))
    try:
        with naming_file(path):
            remove(temporary)
            (temporary if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
            yield temporary
            _fsync_tree(temporary)
            if is_folder and path.exists():  # a folder cannot be renamed over another
                remove(old)
                path.replace(old)
            temporary.replace(path)
            fsync(path.parent)
        remove(old)
    finally:
        remove(temporary)


def swapping(folder: Path) -> AbstractContextManager[Path]:
    """Yields a new folder, which replaces ``folder`` if the block ends without an error (`replacing`).

    A process that is killed between the two renames leaves the old folder under another name: `swapped` restores it.
    """
    return replacing(folder, is_folder=True)


def swapped(folder: Path) -> Path:
    """The folder, restored if an interrupted `swapping` left it under its other name."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        old.replace(folder)
    return folder


@contextmanager
def merging(folder: Path, last: str) -> Iterator[Path]:
    """Yields a new folder whose files replace those of the same names in ``folder`` if the block ends without an error.

    The file named ``last`` says that they are complete: it is moved after the others are on the disk.
    """
    new = folder / ".partial"
    remove(new)
    try:
        with naming_file(folder):
            new.mkdir(parents=True)
            yield new
            _fsync_tree(new)
            for path in sorted(new.iterdir(), key=lambda path: (path.name == last, path.name)):
                if path.name == last:
                    fsync(folder)
                path.replace(folder / path.name)
            fsync(folder)
    finally:
        remove(new)


def write_json(path: Path, value: object) -> None:
    """Writes ``value`` as JSON, atomically; NaN is an error (ValueError)."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(path: Path) -> list[Path]:
    """The file ``path``, or the files below it, sorted; without hidden ones, which are incomplete."""
    paths = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in paths if file.is_file() and not file.name.startswith(".")]
