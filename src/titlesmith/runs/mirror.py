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
from titlesmith.runs.files import list_files, replacing, write_json

MARKER = ".titlesmith-files.json"
KEPT = ("CNAME",)  # the domain name of a GitHub page; hidden files are kept too


def check_target(folder: Path, kind: str, names: Iterable[str] = ()) -> set[str]:
    """Checks that a folder may be written, and returns the files that titlesmith wrote there earlier.

    It does not exist, is empty, or has the marker of this ``kind``, ``book`` or ``export``. ``names`` are the files to
    write, as POSIX paths below it. RequestError: the folder, or one of the files in it, belongs to somebody else.
    """
    marker, listed = folder / MARKER, set()
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; name a folder")
    if marker.is_file():
        try:
            content = json.loads(marker.read_text("utf-8"))
            listed, written = {str(name) for name in content["files"]}, content["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{marker} is damaged ({error}); name an empty or a new folder") from None
        if written != kind:
            raise RequestError(f"{folder} holds a titlesmith {written!s:.20}, not a titlesmith {kind}")
    elif other := next((path for path in folder.glob("[!.]*") if path.name not in KEPT), None):
        raise RequestError(f"{other} exists and titlesmith did not write it; name another folder")
    for path in (folder / name for name in names):
        if not _is_inside(path, folder):
            raise RequestError(f"{path} leads out of {folder} through a link; remove the link")
        if path.relative_to(folder).as_posix() not in listed and (path.exists() or path.is_symlink()):
            raise RequestError(f"{path} exists and titlesmith did not write it; move it, or name another folder")
    return listed


def mirror(source: Path, target: Path, kind: str, move: bool = False) -> None:
    """Copies (or moves) the visible files of ``source`` to ``target``, a folder of this ``kind`` (`check_target`).

    What an earlier call wrote and ``source`` lacks is deleted.
    """
    names = [path.relative_to(source).as_posix() for path in list_files(source)]
    listed = check_target(target, kind, names)
    target.mkdir(parents=True, exist_ok=True)
    # The list is complete before the first file is written: an interrupted call can be repeated
    write_json(target / MARKER, {"kind": kind, "files": sorted(listed.union(names))})
    for name in names:
        path = target / name
        if not path.is_file() or path.is_symlink() or not filecmp.cmp(source / name, path, shallow=False):
            with replacing(path) as temporary:
                (shutil.move if move else shutil.copyfile)(source / name, temporary)
    for path in (target / name for name in listed.difference(names, [MARKER])):
        if _is_inside(path, target) and (path.is_file() or path.is_symlink()):
            path.unlink()
            for folder in path.parents:
                if folder == target or any(folder.iterdir()):
                    break
                folder.rmdir()
    write_json(target / MARKER, {"kind": kind, "files": sorted(names)})


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether the folder that holds ``path`` is ``folder`` or below it, links followed."""
    return path.name not in ("", "..") and path.parent.resolve().is_relative_to(folder.resolve())
