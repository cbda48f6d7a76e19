"""Publishing: the built book is copied into a folder, or pushed to the branch that GitHub Pages serves.

A built book has the record of each of its runs in ``runs/<run>/``. The next publication builds the book from these
records and from the runs of this project, so that no run is lost. Records may come from other people: see `untrusted`.
"""

import subprocess
import tempfile
from pathlib import Path

from typer.core import TyperGroup

from titlesmith.book.build import Book, build
from titlesmith.errors import RequestError, StageError
from titlesmith.runs import root
from titlesmith.runs.mirror import check_target, mirror

BRANCH = "gh-pages"


def publish(target: str, commands: TyperGroup) -> Book:
    """Builds the book, including runs that were published earlier, and publishes it.

    ``target`` is a folder; or ``gh-pages``, the branch of that name in the repository ``origin``. If it holds other
    files, it is a RequestError. After a StageError, which has the message of git, the publication is unchanged.
    """
    if target == BRANCH:
        return _to_branch(commands)
    folder = Path(target).resolve()
    if folder == root() or folder in root().parents or folder.is_relative_to(root() / "_build"):
        raise RequestError(f"--publish {target}: the project is built there; name another folder, or {BRANCH}")
    return _to_folder(folder, commands)


def _to_folder(folder: Path, commands: TyperGroup) -> Book:
    check_target(folder, "book")
    book = build(commands, folder)
    mirror(book.page.parent, folder, "book")
    (folder / ".nojekyll").touch()  # without it, GitHub omits folders whose names begin with _
    return book


def _to_branch(commands: TyperGroup) -> Book:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / BRANCH
        remote = f"origin/{BRANCH}" if _git("ls-remote", "--heads", "origin", BRANCH) else ""
        if remote:
            _git("fetch", "origin", f"+refs/heads/{BRANCH}:refs/remotes/{remote}")
        _git("worktree", "add", "--detach", *([str(tree), remote] if remote else ["--no-checkout", str(tree)]))
        try:
            book = _to_folder(tree, commands)
            _git("add", "--all", "--force", ".", at=tree)
            content = _git("write-tree", at=tree)
            if not remote or content != _git("rev-parse", f"{remote}^{{tree}}", at=tree):
                parent = ["-p", remote] if remote else []  # a new branch shares no history
                commit = _git("commit-tree", content, *parent, "-m", f"The book with {len(book.shown)} runs", at=tree)
                _git("push", "origin", f"{commit}:refs/heads/{BRANCH}", at=tree)
        finally:
            _git("worktree", "remove", "--force", str(tree))
    return book


def _git(*arguments: str, at: Path | None = None) -> str:
    done = subprocess.run(["git", *arguments], cwd=at or root(), capture_output=True, text=True)
    if done.returncode:
        hint = ". The branch changed during this publication: publish again" if "rejected" in done.stderr else ""
        raise StageError(f"git {' '.join(arguments[:2])} failed: {(done.stderr or done.stdout).strip()}{hint}")
    return done.stdout.strip()
