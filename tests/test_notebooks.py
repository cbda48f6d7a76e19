import json
import re
import shutil

import nbformat
import pytest

from conftest import ROOT, SMALL
from titlesmith import colab, models
from titlesmith.errors import RequestError
from titlesmith.experiment import Experiment, find
from titlesmith.runs import STAGES
from titlesmith.settings import declared

NOTEBOOKS = {stage: ROOT / "notebooks" / f"{i:02d}_{stage}.ipynb" for i, stage in enumerate(STAGES, 1)}
COLAB = nbformat.read(ROOT / "notebooks" / "colab.ipynb", 4)


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
        if not {"parameters", "remove-cell"} & set(cell.metadata.get("tags", [])):
            lines = [line for line in cell.source.splitlines() if line]
            assert len(lines) <= (4 if cell.cell_type == "code" else 12)


def read_install_cell(book):
    cell = next(c for c in book.cells if c.cell_type == "code")
    assert cell.metadata.tags == ["remove-cell"]
    return cell.source


def test_first_code_cell_installs_where_titlesmith_is_missing(book):
    source = read_install_cell(book)
    assert source == read_install_cell(COLAB), "one cell in all notebooks"
    condition, install, check = source.splitlines()[-3:]
    assert condition == 'if not find_spec("titlesmith"):' and install.startswith("    %pip install")
    assert check.startswith('    assert find_spec("titlesmith")'), "%pip raises nothing"
    assert 'PACKAGE = ""' in source, "only a published book knows an address"


def test_the_form_for_colab_repeats_no_declaration():
    (form,) = [c.source for c in COLAB.cells if "parameters" in c.metadata.get("tags", [])]
    fields = dict(re.findall(r"^(\w+) = .+?  #@param (.+)$", form, re.MULTILINE))
    assert set(fields) == {*colab.FIELDS, "run_name", "years", "more"}
    assert json.loads(fields["source"]) == [*declared("harvest")["source"].constraint.choices]
    random = ("scratch-", "hf:")  # for experts
    assert json.loads(fields["model"]) == [name for name in models.names() if not name.startswith(random)]
    for cell in COLAB.cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


def test_the_form_is_an_experiment_and_its_mistakes_are_named(project):
    form = {"source": "sample", "category": "", "years": "2022-2023", "model": "base", "steps": 7, "more": ""}
    form |= {"prefixes": "Deep,Music", "run_name": "mine"}
    settings = colab.read_form(form).settings
    assert settings["harvest"]["since"] == "2022-01-01" and settings["harvest"]["until"] == "2023-12-31"
    assert settings["harvest"]["categories"] == [] and settings["generate"]["prefixes"] == ["Deep", "Music"]
    assert settings["finetune"]["steps"] == 7 and settings["finetune"]["learning_rate"] == 0.0005, (
        "as in archive-titles"
    )
    assert not colab.read_form(form | {"category": "eess.AS"}).settings["harvest"]["categories"], "made-up papers"
    assert colab.read_form(form | {"more": "finetune.batch_size=4 seed=3"}).settings["corpus"]["seed"] == 3
    for wrong in ({"years": "soon"}, {"source": "web"}, {"steps": 0}):
        with pytest.raises(RequestError, match=r"is not allowed"):
            colab.read_form(form | wrong)


def test_the_notebook_for_colab_shows_what_the_stages_showed(finished_project, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished_project, tmp_path / "project")  # a chain locks its run, which other tests read
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path / "project"))
    shown = []
    monkeypatch.setattr(colab, "display", lambda data, raw=False: shown.append(data))
    experiment = Experiment.read(find("scratch-titles"), ("harvest.path=papers.tsv", *SMALL))
    for stage in STAGES:
        colab.run_stage(experiment, "small", stage)
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "skipped" in line) == "[1/1] harvest: unchanged, skipped"
    assert sum("skipped" in line for line in lines) == len(STAGES), "each stage speaks once"
    assert sum("image/png" in data for data in shown) >= 4 and sum("text/html" in data for data in shown) >= 8
    colab.describe(experiment)
    lines = capsys.readouterr().out
    assert "enough to train scratch" in lines and re.search(r"about \d+ minutes", lines)


def test_the_parameters_that_matter_first_are_six(book):
    (cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    first, _, more = cell.source.partition("\n\n# More\n")
    assert first.startswith("run_name: ") and (len(first.splitlines()) == 6 or not more)
