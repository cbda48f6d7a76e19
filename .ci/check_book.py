"""Checks the built book: it exists, every complete run has its chapter, and no page shows an error."""

import re
import sys

from titlesmith.run import STAGES, notebook, root, runs

html = root() / "_build" / "html"
complete = [run for run in runs() if run.complete]
wanted = [html / "index.html", html / "book" / "index.html"]
for run in complete:
    chapter = html / "book" / "runs" / run.name
    wanted += [chapter / "index.html", *(chapter / f"{notebook(stage).stem}.html" for stage in STAGES)]
problems = [f"missing: {page}" for page in wanted if not page.is_file()]
problems += [] if complete else ["no run is complete, so the book shows none"]
for page in html.rglob("*.html"):
    if found := re.search(r"class=\"output (traceback|stderr)", page.read_text("utf-8")):
        problems.append(f"error output in {page}: {found[0]}")
print("\n".join(problems) or f"the book is whole: {len(wanted)} pages of {len(complete)} run(s), no error in any page")
sys.exit(bool(problems))
