"""The installed package as a wheel, and new projects made from the files that the wheel carries."""

import shlex
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from titlesmith.errors import RequestError, StageError

CHECKOUT = Path(__file__).parents[2]  # of the repository, if the package is not installed
PROJECT = "titlesmith/project/"  # files of a project, in the wheel
IGNORED = "# What titlesmith makes\n/_build/\n/runs/\n/sweeps/\n/models/\nbook/runs/\nbook/sweeps/\n"


def write_wheel(folder: Path) -> Path:
    """Writes the wheel of the running titlesmith to a folder: built from the checkout, or repacked as installed.

    Equal sources make equal bytes. If it cannot be built, it is a StageError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("titlesmith-*.whl"):
        earlier.unlink()
    if not (CHECKOUT / "pyproject.toml").is_file():
        return _repack(folder)
    run_module("hatchling", "build", "--target", "wheel", "--directory", str(folder.resolve()), cwd=CHECKOUT)
    return next(folder.glob("*.whl"))


def run_module(*arguments: str, **options: object) -> None:
    """Runs a module of Python in a separate process; a StageError has the end of what it printed if it fails."""
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, **options)
    if done.returncode:
        raise StageError(f"python -m {shlex.join(arguments)} failed: {(done.stderr or done.stdout).strip()[-1000:]}")


def _repack(folder: Path) -> Path:
    """The files of the installed package, with the digests that were recorded when it was installed."""
    installed = distribution("titlesmith")
    target = folder / f"titlesmith-{installed.version}-py3-none-any.whl"
    files = [file for file in installed.files or [] if file.parts[0].startswith("titlesmith") and file.suffix != ".pyc"]
    record = next(file for file in files if file.name == "RECORD")
    files = [file for file in files if file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")]
    lines = [f"{file},{file.hash.mode}={file.hash.value},{file.size}\n" for file in files if file.hash]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file)), file.read_binary(), zipfile.ZIP_DEFLATED)  # without a date
        archive.writestr(zipfile.ZipInfo(str(record)), "".join([*lines, f"{record},,\n"]))
    return target


def init(folder: Path) -> list[str]:
    """Makes a project in a new or empty folder (else RequestError) with the wheel that made it; returns its names."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} exists and is not empty; name a new folder: titlesmith init FOLDER")
    wheel = write_wheel(folder)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(PROJECT):
                target = folder / name.removeprefix(PROJECT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    # The project contains no package: its environment installs the wheel
    environment = folder / "environment.yml"
    text = environment.read_text("utf-8").replace("--editable .[", f"./{wheel.name}[")
    environment.write_text(text, "utf-8")
    (folder / ".gitignore").write_text(IGNORED, "utf-8")
    return sorted(path.name for path in folder.iterdir())
