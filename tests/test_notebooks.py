import tomllib

import nbformat
import pytest

from conftest import ROOT
from titlesmith.runs import STAGES

NOTEBOOKS = {stage: ROOT / "notebooks" / f"{i:02d}_{stage}.ipynb" for i, stage in enumerate(STAGES, 1)}


@pytest.fixture(params=STAGES)
def book(request):
    return nbformat.read(NOTEBOOKS[request.param], 4)


def test_committed_without_outputs(book):
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_one_heading_of_the_first_rank_and_it_comes_first(book):
    ranks = [
        line for c in book.cells if c.cell_type == "markdown" for line in c.source.splitlines() if line[:2] == "# "
    ]
    assert len(ranks) == 1
    assert book.cells[0].source.startswith(ranks[0])


def test_one_parameters_cell_and_short_cells(book):
    tags = [cell.metadata.get("tags", []) for cell in book.cells]
    assert sum("parameters" in t for t in tags) == 1
    for cell in book.cells:
        if "parameters" not in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if line]
            assert len(lines) <= (4 if cell.cell_type == "code" else 12)


def test_first_code_cell_installs_in_colab_and_only_there(book):
    first = next(c for c in book.cells if c.cell_type == "code")
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert f"git+{repository}" in first.source
    condition, install = first.source.splitlines()[-2:]
    assert condition == 'if "google.colab" in sys.modules:'
    assert install.startswith("    %pip install")
