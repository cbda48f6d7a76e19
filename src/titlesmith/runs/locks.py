"""Locks: at most one process writes a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from titlesmith.errors import RunError

LOCK_TIMEOUT = 10  # seconds; a kernel whose parent process was killed needs one or two to notice
_locks: dict[Path, FileLock] = {}


def hold(path: Path, timeout: float = 0) -> None:
    """Locks the file ``path`` for this process, until `release` or its end; does nothing if this process holds it.

    RunError: another process still holds it after ``timeout`` seconds.
    """
    lock = _locks.setdefault(path, FileLock(path, thread_local=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not lock.is_locked:
            lock.acquire(timeout=timeout)
    except Timeout:
        raise RunError(
            f"{path.parent} is in use by another titlesmith or notebook; wait for it, stop it, or give this run "
            "another name with --name"
        ) from None


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock."""
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def release(path: Path) -> None:
    """Releases a lock taken with `hold`."""
    if path in _locks:
        _locks.pop(path).release()


@contextmanager
def chain_lock(folder: Path) -> Iterator[None]:
    """Locks a run directory for a command that runs its stages (RunError: another one does).

    It waits for the kernel of a command that was just killed.
    """
    hold(folder / ".chain.lock")
    try:
        hold(folder / ".stage.lock", LOCK_TIMEOUT)
        release(folder / ".stage.lock")
        yield
    finally:
        release(folder / ".chain.lock")
