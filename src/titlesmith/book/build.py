"""Builds the book: writes its pages and renders them with Jupyter Book."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from typer.core import TyperGroup

from titlesmith import models
from titlesmith.book import compare, figures, launch, lessons, pages, sweeps, write, writer
from titlesmith.book.report import Report, explain, load_reports
from titlesmith.errors import DAMAGE, RunError, StageError
from titlesmith.markup import render
from titlesmith.runs import digest, list_files, project, replacing, root, write_json

MATHJAX = Path("mathjax", "tex-svg.js")  # formulas need no network


@dataclass(frozen=True)
class Book:
    """A built book: its home page, its runs, newest first, and why folders in ``runs/`` are not in it, by name."""

    page: Path
    shown: list[Report]
    omitted: dict[str, str]


def build(commands: TyperGroup, published: Path | None = None) -> Book:
    """Builds ``_build/html`` from the pages in ``book/`` and every finished run; a warning is a StageError.

    The reference describes ``commands``. Runs that only the folder ``published``, an earlier publication, has are kept.
    """
    output = project() / "_build"
    output.mkdir(exist_ok=True)
    try:
        with FileLock(output / ".lock", timeout=0):
            return _build(output, commands, published)
    except Timeout:
        raise RunError(f"the book is being built by another titlesmith in {output}; wait for it, or stop it") from None


def _build(output: Path, commands: TyperGroup, published: Path | None) -> Book:
    shown, omitted = load_reports(published)
    html, folder, launching = output / "html", root() / "book" / "runs", launch.prepare(output)
    # Pages of runs, first all but the first one, whose links depend on which runs are shown
    for report in list(shown):
        try:
            files = pages.render_run(report, launching)
            for name, text in files.items():
                write(folder / report.name / name, text)
            _prune(folder / report.name, {*files, "index.md"}, html)
        except DAMAGE as error:  # the other runs stay
            shown.remove(report)
            omitted[report.name] = explain(report.path, error)
    scripts, names = writer.write_scripts(shown, html / "runs"), ["", *(report.name for report in shown), ""]
    for report, newer, older in zip(shown, names, names[2:], strict=False):
        index = pages.render_index(report, newer, older, scripts.get(report.name))
        write(folder / report.name / "index.md", index)
    _prune(folder, {report.name for report in shown}, html)
    # Pages of sweeps
    groups: dict[str, list[Report]] = {}
    for report in shown:
        if report.sweep:
            groups.setdefault(report.sweep["name"], []).append(report)
    sources = [root(), *filter(None, [published])]
    tables = {name: compare.read_record(name, sources) for name in groups}
    for name, members in groups.items():
        write(folder.with_name("sweeps") / f"{name}.md", sweeps.render_sweep(name, members, tables[name]))
    _prune(folder.with_name("sweeps"), {f"{name}.md" for name in groups}, html)
    # Parts that the other pages include
    with_abstracts = list(filter(pages.makes_titles, shown))
    parts = {
        **launching.parts(),
        "home": pages.render_home(shown, scripts),
        "gallery": render("gallery.md.j2", reports=shown, cards=pages.render_cards(shown)),
        "three-abstracts": render("abstracts.md.j2", reports=with_abstracts),
        "parameters": pages.render_parameters(),
        "commands": pages.render_commands(commands),
        **{f"lesson-{name}": text for name, text in lessons.render_lessons(shown, html / "runs").items()},
    }
    for name, text in parts.items():
        write(output / "parts" / f"{name}.md", text)
    # The table of contents lists the new papers, the latest runs and the sweeps, and the three abstracts if they exist
    toc = yaml.safe_load((root() / "_toc.yml").read_text("utf-8"))
    listed = [f"book/runs/{report.name}/" for report in shown]
    sections = [{"file": f"{run}daily"} for run in listed if (root() / run / pages.DAILY).exists()]
    for run in listed[: pages.LATEST]:
        sections.append({"file": f"{run}index", "sections": [{"file": f"{run}{name}"} for name in pages.SUB]})
    sections += [{"file": f"book/sweeps/{name}"} for name in sorted(groups)]
    for part in toc["parts"]:
        if not with_abstracts:
            part["chapters"] = [c for c in part["chapters"] if c["file"] != "book/three-abstracts"]
        for chapter in part["chapters"]:
            if chapter["file"] == "book/runs" and sections:
                chapter["sections"] = sections
    write(output / "toc.yml", yaml.safe_dump(toc, sort_keys=False))
    # Settings, and what the pages load
    config, static = launching.config, [digest(file) for file in list_files(root() / "book" / "_static")]
    config["sphinx"]["config"] |= {"titlesmith_address": launching.address, "titlesmith_static": static}
    write(output / "config.yml", yaml.safe_dump(config, sort_keys=False))
    (package,) = find_spec("sphinx-mathjax-offline").submodule_search_locations
    write(html / "_static" / MATHJAX, (Path(package) / "static" / MATHJAX).read_bytes())
    _render(output)
    write(html / "index.html", render("home.html.j2"))
    helpers = {"describe": models.describe, "choose_best": pages.choose_best}
    write(html / "feed.xml", render("feed.xml.j2", address=launching.address, reports=shown, **helpers))
    lead = pages.choose_lead(shown)
    best = [row["text"] for row in pages.choose_best(lead)[:5]] if lead else []
    write(html / "_static" / "preview.png", figures.draw_preview(best, made_up=bool(lead and lead.made_up)))
    launching.write(html)
    for script in html.glob("_static/vendor/fontawesome/*/js/*"):  # which no page loads
        script.unlink()
    # Records, from which the next publication shows these runs again
    for report in shown:
        report.copy_to(html / "runs" / report.name, folder / report.name)
    for name, rows in tables.items():
        write_json(html / "sweeps" / f"{name}.json", {"name": name} | rows)
    return Book(html / "index.html", shown, omitted)


def _prune(folder: Path, names: set[str], html: Path) -> None:
    """Removes the sources and the output of pages that are no longer in the book."""
    for stale in {path.name for path in folder.glob("*")} - names:
        relative = (folder / stale).relative_to(root())
        for path in (folder / stale, html / relative, html / "_sources" / relative, html / folder.name / stale):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (html / relative).with_suffix(".html").unlink(missing_ok=True)


def _render(output: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "titlesmith.book.render", str(root())],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
    )
    log = output / "book.log"
    log.write_text(done.stdout + done.stderr, "utf-8")
    if done.returncode:
        # Sphinx repeats a warning only for pages that it reads again: without its cache it reads them all
        shutil.rmtree(output / ".doctrees", ignore_errors=True)
        lines = (done.stdout + done.stderr).splitlines()
        errors = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-10:]
        raise StageError("Jupyter Book failed:\n" + "\n".join(errors[:10]) + f"\nComplete output: {log}")


def pack(book: Book) -> Path:
    """Writes ``_build/book.zip``: the book as a folder that needs no server."""
    html, target = book.page.parent, root() / "_build" / "book.zip"
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(html.rglob("*")):
            if path.is_file() and path.name != ".buildinfo":
                archive.write(path, Path("book") / path.relative_to(html))
    return target
