"""Measures how long a book of many runs takes to build, and how long its home page takes to load from disk.

    python benchmarks/book.py --runs 200 --json

Its runs are copies of one finished run under other names: by default a new run of made-up papers (a minute). The build
starts without a cache. The time to load the complete page in Chromium is the median of five, after a first one that
fills the system's cache; without playwright it is null.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Prints a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--run", type=Path, help="directory of the finished run to repeat")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.runs, arguments.run)
    for name, value in figures.items():
        print(f"{name:<32} {value}")
    if arguments.json:
        print(json.dumps(figures))


def measure(folder: Path, runs: int, run: Path | None = None) -> dict:
    """Builds a book of so many runs in an empty folder."""
    for name in ("notebooks", "book", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("runs", "sweeps"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder / name)
    if run is None:
        titlesmith(folder, "run", "sample-titles", "--name", "one")
        run = folder / "runs" / "one"
    for number in range(runs):
        copy = folder / "runs" / f"run-{number:03d}"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("tensorboard", ".*"))
        info = json.loads((copy / "run.json").read_text("utf-8")) | {"name": copy.name}
        (copy / "run.json").write_text(json.dumps(info), "utf-8")
    if run.is_relative_to(folder):
        shutil.rmtree(run)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        titlesmith(folder, "book")
        seconds.append(time.perf_counter() - start)
    home = folder / "_build" / "html" / "book" / "index.html"
    return {
        f"build_seconds_{runs}_runs": round(seconds[0], 1),
        f"unchanged_build_seconds_{runs}_runs": round(seconds[1], 1),
        "home_load_seconds": load(home),
        "home_bytes": home.stat().st_size,
        "pages": sum(1 for _ in home.parent.rglob("*.html")),
        "cores": len(os.sched_getaffinity(0)),
    }


def titlesmith(folder: Path, *arguments: str) -> None:
    """Runs a command in the project ``folder``."""
    environment = os.environ | {"TITLESMITH_ROOT": str(folder)}
    command = [sys.executable, "-m", "titlesmith", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def load(page: Path) -> float | None:
    """Seconds until a page and its files are loaded; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    path = os.environ.get("TITLESMITH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        return None
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(6):
            tab = browser.new_page()
            start = time.perf_counter()
            tab.goto(page.as_uri(), wait_until="load")
            seconds.append(time.perf_counter() - start)
            tab.close()
        browser.close()
    return round(statistics.median(seconds[1:]), 3)


if __name__ == "__main__":
    main()
