"""Notebooks that begin and finish their stages and do nothing else, for tests of what executes notebooks."""

from pathlib import Path

import nbformat

from titlesmith.runs import STAGES, notebook

CELL = """
from titlesmith import pipeline
from titlesmith.runs import OUTPUTS, Run
from titlesmith.settings import declared

run, settings = Run(run_name), {{name: globals()[name] for name in declared("{stage}")}}
run.begin("{stage}", settings, pipeline.source("{stage}"))
{work}
files = {{"history.csv": "step,valid_loss\\n1,2.5\\n", "metrics.json": '{{"perplexity": {{"valid": 9.0}}}}'}}
for name in OUTPUTS["{stage}"]:
    path = run / name if "." in name else run / name / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(files.get(name, str(settings)))
run.finish("{stage}")
"""


def empty_notebooks(project: Path, **work: str) -> None:
    """Replaces the notebooks of a project; ``work`` is code by stage that runs once the stage has begun."""
    for stage in STAGES:
        path = project / "notebooks" / notebook(stage).name
        book = nbformat.read(path, 4)
        parameters = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
        code = CELL.format(stage=stage, work=work.get(stage, ""))
        book.cells = [*parameters, nbformat.v4.new_code_cell(code)]
        nbformat.write(book, path)
