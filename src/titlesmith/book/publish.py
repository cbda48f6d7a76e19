"""Publishing: the built book into a folder, or onto the branch that GitHub Pages serves.

A built book carries the record of each of its runs in ``runs/<run>/``. The next publication reads the records that
are there and builds the book from them and from the runs of this project together, so that no run is lost.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from titlesmith.book.build import Book, build
from titlesmith.errors import RequestError, StageError
from titlesmith.runs import files, replacing, root

BRANCH = "gh-pages"
KEPT = ("CNAME",)  # what a host keeps beside the book; hidden files too


def publish(target: str) -> Book:
    """Builds the book with the runs that were published earlier, and publishes it.

    Parameters
    ----------
    target
        A folder, made where it is missing; or ``gh-pages``, the branch of that name in the repository ``origin``.

    Raises
    ------
    RequestError
        The folder holds something else, or the project is no git repository with an ``origin``.
    StageError
        The book could not be built, or the branch not be fetched or pushed: what was published stays as it was.
    """
    if target == BRANCH:
        return _to_branch()
    folder = Path(target).resolve()
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"--publish {target}: it is a file; name a folder, or {BRANCH}")
    if folder == root() or folder in root().parents or folder.is_relative_to(root() / "_build"):
        raise RequestError(f"--publish {target}: the project is built there; name another folder, or {BRANCH}")
    if folder.is_dir() and any(p for p in folder.glob("[!.]*") if p.name not in KEPT) and not is_book(folder):
        raise RequestError(f"--publish {target}: the folder holds something that is no book; name an empty or new one")
    book = build(folder)
    mirror(book.page.parent, folder)
    return book


def is_book(folder: Path) -> bool:
    """Whether a folder holds a published book."""
    return (folder / "objects.inv").is_file() and (folder / "book" / "index.html").is_file()


def mirror(source: Path, target: Path) -> None:
    """Makes ``target`` hold the files of ``source`` and no others but hidden ones and `KEPT`; new ones come first."""
    wanted = {path.relative_to(source) for path in files(source)}
    for name in sorted(wanted):
        path = target / name
        if not path.is_file() or path.read_bytes() != (source / name).read_bytes():
            with replacing(path) as temporary:
                shutil.copyfile(source / name, temporary)
    (target / ".nojekyll").touch()  # else GitHub leaves out folders that begin with _
    for path in files(target):
        name = path.relative_to(target)
        if name not in wanted and not name.parts[0].startswith(".") and str(name) not in KEPT:
            path.unlink()
    for path in sorted((p for p in target.rglob("*") if p.is_dir() and ".git" not in p.parts), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def _to_branch() -> Book:
    try:
        _git("remote", "get-url", "origin")
    except StageError as error:
        raise RequestError(
            f"--publish {BRANCH}: {root()} is no git repository with a remote origin ({error})"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / BRANCH
        there = _git("ls-remote", "--heads", "origin", BRANCH)
        if there:
            _git("fetch", "origin", f"+refs/heads/{BRANCH}:refs/remotes/origin/{BRANCH}")
        _git(
            "worktree", "add", "--detach", *([str(tree), f"origin/{BRANCH}"] if there else ["--no-checkout", str(tree)])
        )
        try:
            book = build(tree)
            mirror(book.page.parent, tree)
            _git("add", "--all", "--force", ".", at=tree)
            content = _git("write-tree", at=tree)
            if not there or content != _git("rev-parse", f"origin/{BRANCH}^{{tree}}", at=tree):
                parent = ["-p", f"origin/{BRANCH}"] if there else []  # else a history of its own
                commit = _git("commit-tree", content, *parent, "-m", f"The book with {len(book.shown)} runs", at=tree)
                _git("push", "origin", f"{commit}:refs/heads/{BRANCH}", at=tree)
        finally:
            _git("worktree", "remove", "--force", str(tree))
    return book


def _git(*arguments: str, at: Path | None = None) -> str:
    done = subprocess.run(["git", *arguments], cwd=at or root(), capture_output=True, text=True)
    if done.returncode:
        hint = ". Somebody published meanwhile: publish again" if "rejected" in done.stderr else ""
        raise StageError(f"git {' '.join(arguments[:2])} failed: {(done.stderr or done.stdout).strip()}{hint}")
    return done.stdout.strip()
