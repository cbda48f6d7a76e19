"""Output folders outside of ``runs/``: published books and exports.

Such a folder holds a marker file with the list of the files that titlesmith wrote. Only these files are replaced or
deleted; other people's files in the folder stay.
"""

import filecmp
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from titlesmith.errors import RequestError
from titlesmith.runs.files import files, replacing, write_json

MARKER = ".titlesmith-files.json"
KEPT = ("CNAME",)  # the domain name of a GitHub page; hidden files are kept too


def check_target(folder: Path, kind: str, names: Iterable[str] = ()) -> set[str]:
    """Checks that a folder may be written.

    Parameters
    ----------
    folder
        It does not exist, is empty, or has the marker.
    kind
        What it is to hold: ``book``, or ``export``.
    names
        The files to write, as POSIX paths below the folder.

    Returns
    -------
    set of str
        The files that titlesmith wrote there earlier.

    Raises
    ------
    RequestError
        The folder, or one of the files in it, belongs to somebody else.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder")
    marker = folder / MARKER
    if not marker.is_file():
        other = next((p for p in folder.glob("[!.]*") if p.name not in KEPT), None) if folder.is_dir() else None
        if other:
            raise RequestError(
                f"{folder} holds {other.name} and no {MARKER}, so titlesmith did not write it; "
                "name an empty or a new folder"
            )
        listed = set()
    else:
        try:
            content = json.loads(marker.read_text("utf-8"))
            listed = {str(name) for name in content["files"]}
            written = content["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{marker} is damaged ({error}); name an empty or a new folder") from None
        if written != kind:
            raise RequestError(
                f"{folder} holds a titlesmith {written!s:.20}, not a titlesmith {kind}; name another folder"
            )
    for name in names:
        path = folder / name
        if not _is_inside(path, folder):
            raise RequestError(f"{path} leads out of {folder} through a link; remove the link")
        if name not in listed and (path.exists() or path.is_symlink()):
            raise RequestError(f"{path} exists and titlesmith did not write it; move it, or name another folder")
    return listed


def mirror(source: Path, target: Path, kind: str, move: bool = False) -> None:
    """Copies the files of ``source`` to ``target``, and deletes what an earlier call wrote and ``source`` lacks.

    Parameters
    ----------
    source, target
        Folders. Hidden files of ``source`` are not copied.
    kind
        See `check_target`, which runs first.
    move
        Move the files instead of copying them.
    """
    names = [path.relative_to(source).as_posix() for path in files(source)]
    listed = check_target(target, kind, names)
    target.mkdir(parents=True, exist_ok=True)
    # The list is complete before the first file is written: an interrupted call can be repeated
    write_json(target / MARKER, {"kind": kind, "files": sorted(listed.union(names))})
    for name in names:
        path = target / name
        if not path.is_file() or path.is_symlink() or not filecmp.cmp(source / name, path, shallow=False):
            with replacing(path) as temporary:
                (shutil.move if move else shutil.copyfile)(source / name, temporary)
    for name in listed.difference(names):
        path = target / name
        if name in (MARKER, "") or not _is_inside(path, target) or not (path.is_file() or path.is_symlink()):
            continue
        path.unlink()
        for folder in path.parents:
            if folder == target or any(folder.iterdir()):
                break
            folder.rmdir()
    write_json(target / MARKER, {"kind": kind, "files": sorted(names)})


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether the folder that holds ``path`` is ``folder`` or below it, links followed."""
    return path.name not in ("", "..") and path.parent.resolve().is_relative_to(folder.resolve())
