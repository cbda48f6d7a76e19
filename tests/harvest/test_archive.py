import lzma
import zipfile

import pytest

from conftest import HOSTILE, data, write_archive
from titlesmith.errors import RequestError
from titlesmith.harvest import SCHEMA, archive, harvest
from titlesmith.runs import Run

ALL = {"source": "archive", "categories": [], "since": "", "until": "", "max_results": 0, "encoding": "utf-8"}


def papers(path, **settings):
    run = Run("r")
    run.begin("harvest", {})
    return harvest(run, ALL | {"path": str(path)} | settings).scan().collect()


@pytest.mark.parametrize(
    ("stored", "true"),
    [
        ("1510.0898300000001", "1510.08983"),
        ("1501.0749", "1501.07490"),
        ("1912.1330699999999", "1912.13307"),
        ("1301.3605", "1301.3605"),
        ("704.0001", "0704.0001"),
        ("cmp-lg/9404002", "cmp-lg/9404002"),
    ],
)
def test_identifiers_that_were_stored_as_numbers_are_repaired(stored, true):
    assert archive.identifier(stored) == true


def test_rows_become_papers_oldest_first(project, archive):
    found = papers(archive)
    assert dict(found.schema) == SCHEMA
    assert found.height == 120
    assert found["published"].is_sorted()
    assert HOSTILE in found["title"].to_list()
    assert found["authors"][0].to_list() == ["A. Author", "B. Author"]
    assert found["categories"][0].to_list() == ["cs.SD", "eess.AS"]


def test_line_breaks_and_tabs_inside_quotes(project, tmp_path):
    path = write_archive(tmp_path / "a.tsv", [{"title": 'One\n  "two"\tthree'}])
    assert papers(path)["title"].to_list() == ['One\n  "two"\tthree']


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"since": "2015-01-01"}, 60),
        ({"until": "2014-12-31"}, 60),
        ({"since": "2012-01-01", "until": "2012-12-31"}, 12),
        ({"categories": ["cs.SD", "math.AG"]}, 120),
        ({"max_results": 7}, 7),
    ],
)
def test_filters(project, archive, settings, count):
    found = papers(archive, **settings)
    assert found.height == count
    if "max_results" in settings:
        assert found["published"].min().year == 2019, "the newest are kept"


def test_filters_that_leave_nothing_are_named(project, archive):
    with pytest.raises(RequestError, match=r"none of 120 papers .*categories=\['math.AG'\]"):
        papers(archive, categories=["math.AG"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\tb\n1\t2\n", "'arxiv_id' is not a column."),
        (b"", "is missing or empty"),
        (b"\xff\xfe\x00broken", "is not a column"),
    ],
)
def test_other_files_are_refused_by_name(project, tmp_path, content, said):
    path = tmp_path / "other.tsv"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"other\.tsv") as error:
        papers(path)
    assert said in str(error.value)


def test_a_folder_and_a_zip_hold_many_tables(project, tmp_path):
    folder, packed = tmp_path / "tables", tmp_path / "tables.zip"
    folder.mkdir()
    for name, title in (("a", "One"), ("b", "Two")):
        write_archive(folder / f"{name}.tsv", [{"title": title, "arxiv_id": f"2001.0000{name == 'b':d}"}])
    (folder / "b.tsv").rename(folder / "b.tmp")
    (folder / "b.tsv.xz").write_bytes(lzma.compress((folder / "b.tmp").read_bytes()))
    (folder / "b.tmp").unlink()
    assert papers(folder)["title"].to_list() == ["One", "Two"]
    with zipfile.ZipFile(packed, "w") as file:
        file.write(folder / "a.tsv", "tables/a.tsv")
        file.writestr("tables/b.tsv", lzma.decompress((folder / "b.tsv.xz").read_bytes()))
        file.writestr("__MACOSX/._a.tsv", "no table")
    assert papers(packed).equals(papers(folder))


def test_of_a_folder_every_file_must_be_a_table(project, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    write_archive(folder / "a.tsv", [{"title": "One"}])
    (folder / "readme.txt").write_text("About these files")
    with pytest.raises(RequestError, match=r"is not a column.*readme\.txt has"):
        papers(folder)


@pytest.mark.parametrize(
    ("row", "reason", "shown"),
    [
        ({"title": "Two", "created": "soon"}, "invalid date", "'soon'"),
        ({"title": "Two", "updated": "2019-02-30"}, "invalid date", "'2019-02-30'"),
        ({"title": "Two", "arxiv_id": ""}, "no id", "'Two'"),
        ({"title": "Two", "doi": "10.1/x\t10.1/y"}, "wrong number of columns", "11 instead of 10"),
    ],
)
def test_a_malformed_row_is_counted_with_its_line_and_the_rest_is_read(project, tmp_path, row, reason, shown):
    rows = [{"title": "One\none"}, row, {"title": "Three"}]
    path = write_archive(tmp_path / "a.tsv", rows)
    path.write_text(path.read_text().replace('"10.1/x\t10.1/y"', "10.1/x\t10.1/y"))
    assert papers(path)["title"].to_list() == ["One\none", "Three"]
    faults = Run("r").record("harvest")["faults"]
    assert list(faults) == [reason] and faults[reason]["rows"] == 1
    example = faults[reason]["examples"][0]
    assert example.startswith("a.tsv, line 5: ") and shown in example


@pytest.mark.parametrize(("name", "count"), [("eess.AS", 2484), ("cs.CL", 11636)])
def test_real_archives(project, name, count):
    found = papers(data(f"arxiv/{name}.tsv.xz"))
    assert found.height == count
    assert found["id"].n_unique() == count
    assert found["id"].str.contains(r"^(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})$").all()
