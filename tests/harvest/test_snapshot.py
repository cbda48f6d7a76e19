import gzip
import io
import json
import lzma
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.errors import RequestError
from titlesmith.harvest import SCHEMA, check, harvest, snapshot
from titlesmith.harvest.schema import Faults
from titlesmith.runs import Run

ALL = {"source": "snapshot", "path": "s.json", "categories": [], "since": "", "until": "", "max_results": 0}
ALL |= {"encoding": "utf-8"}


def record(number: int, **values) -> dict:
    return {
        "id": f"0704.{number:05d}",
        "submitter": "Pavel Nadolsky",
        "authors": "C. Bal\\'azs, E. L. Berger",
        "title": f"Calculation {number}",
        "comments": "37 pages",
        "journal-ref": None,
        "doi": None,
        "report-no": None,
        "categories": "hep-ph math.AG",
        "license": None,
        "abstract": "  A fully differential calculation.\n",
        "versions": [
            {"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"},
            {"version": "v2", "created": "Tue, 24 Jul 2007 20:10:27 GMT"},
        ],
        "update_date": "2008-11-26",
        "authors_parsed": [["Balázs", "C.", ""], ["Berger", "E. L.", ""]],
    } | values


def text(*records) -> bytes:
    return b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records)


def papers(project, content: bytes, **given):
    (project / "s.json").write_bytes(content)
    run = Run("r")
    run.begin("harvest", {})
    return harvest(run, ALL | given)


def test_a_record_becomes_a_paper_of_its_first_version(project):
    found = papers(project, text(record(1, doi="10.1/x", **{"journal-ref": "Phys.Rev."}))).scan().collect()
    assert found.schema == SCHEMA
    assert found.row(0, named=True) == {
        "id": "0704.00001",
        "title": "Calculation 1",
        "abstract": "  A fully differential calculation.\n",
        "authors": ["C. Balázs", "E. L. Berger"],
        "categories": ["hep-ph", "math.AG"],
        "primary_category": "hep-ph",
        "published": date(2007, 4, 2),
        "updated": date(2008, 11, 26),
        "doi": "10.1/x",
        "journal_ref": "Phys.Rev.",
        "comments": "37 pages",
        "submitter": "Pavel Nadolsky",
        "license": None,
        "report_no": None,
        "versions": [date(2007, 4, 2), date(2007, 7, 24)],
    }


def test_without_parsed_authors_their_text_is_split(project):
    one = record(1)
    del one["authors_parsed"]
    assert papers(project, text(one)).scan().collect()["authors"][0].to_list() == ["C. Bal\\'azs", "E. L. Berger"]


def test_another_encoding_is_read(project):
    content = json.dumps(record(1, title="é"), ensure_ascii=False).encode("latin-1")
    assert papers(project, content, encoding="latin-1").scan().collect()["title"].to_list() == ["é"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_decides_the_encoding(project, encoding):
    content = json.dumps(record(1, title="Δ"), ensure_ascii=False) + "\n"
    assert papers(project, content.encode(encoding)).scan().collect()["title"].to_list() == ["Δ"]


@pytest.mark.parametrize(
    ("values", "published"),
    [
        ({"categories": ["hep-ph", "math.AG"]}, date(2007, 4, 2)),
        ({"categories": ["hep-ph math.AG"], "authors": ["C. Bal\\'azs", "E. L. Berger"]}, date(2007, 4, 2)),
        ({"versions": ["v1", "v2"]}, date(2007, 4, 1)),
        ({"versions": None}, date(2007, 4, 1)),
        ({"versions": ["v1"], "id": "math.GT/0309136"}, date(2003, 9, 1)),
        ({"versions": ["v1"], "id": "hep-th/9901001"}, date(1999, 1, 1)),
        ({"versions": ["Mon, 2 Apr 2007 19:18:42 GMT", "v2"]}, date(2007, 4, 2)),
        ({"versions": ["2007-04-02"]}, date(2007, 4, 2)),
    ],
)
def test_variants_of_other_programs_are_read(project, values, published):
    one = record(1, **values)
    del one["authors_parsed"]
    (found,) = papers(project, text(one)).scan().collect().to_dicts()
    assert found["categories"] == ["hep-ph", "math.AG"] and found["published"] == published
    assert found["authors"] == ["C. Bal\\'azs", "E. L. Berger"]


def columnar(table: pl.DataFrame) -> dict[str, Callable[[Path], None]]:
    return {"s.parquet": table.write_parquet, "s.arrow": table.write_ipc, "stream.arrow": table.write_ipc_stream}


@pytest.mark.parametrize("name", ["s.parquet", "s.arrow", "stream.arrow"])
def test_parquet_and_arrow_read_as_json_lines(project, monkeypatch, name):
    monkeypatch.setattr(snapshot, "BATCH", 7)
    records = [record(n, **{"report-no": f"R-{n}"}) for n in range(30)]
    lines = papers(project, text(*records)).scan().collect()
    (project / "hub").mkdir()
    (project / "hub" / "README.md").write_text("A data set")
    columnar(pl.DataFrame(records, infer_schema_length=None))[name](project / "hub" / name)
    for path in (f"hub/{name}", "hub"):
        assert papers(project, b"", path=path).scan().collect().equals(lines)


WRITE = """
import polars as pl
number = pl.col("number").cast(pl.String)
pl.LazyFrame({"number": range(200_000)}).select(
    id="0704." + number.str.zfill(6), title="On " + number, abstract=pl.lit("We study sound. " * 125) + number
).sink_parquet("s.parquet", row_group_size=20_000)
"""
READ = """
from pathlib import Path
from titlesmith.harvest import schema, snapshot
tables = snapshot.read({"path": "s.parquet", "source": "snapshot"}, Path(), schema.Faults())
print(sum(table.height for table in tables), Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, because getrusage counts the parent's memory too")
def test_a_large_parquet_file_is_not_read_ahead(project):
    """400 MB of text, in row groups of 20,000 papers, need half of that."""
    for code in (WRITE, READ):
        done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    rows, peak = map(int, done.stdout.split())
    assert rows == 200_000 and peak < 350_000, "kB"


def test_data_sets_with_names_of_versions_and_without_columns_are_read(project):
    table = pl.DataFrame({"id": ["0704.00001", "x"], "title": ["A", "B"], "categories": [["cs.CL", "eess.AS"]] * 2})
    table.with_columns(versions=pl.lit(["v1"]), authors=pl.lit(["A. B", "C. D"])).write_parquet(project / "s.parquet")
    found = papers(project, b"", path="s.parquet")
    (paper,) = found.scan().collect().to_dicts()
    assert paper["published"] == date(2007, 4, 1) and paper["categories"] == ["cs.CL", "eess.AS"]
    assert paper["authors"] == ["A. B", "C. D"] and paper["abstract"] is None
    assert found.faults == {"invalid date": {"rows": 1, "examples": ["s.parquet, line 2: 'x'"]}}


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"PAR1 and no more"), r"s\.parquet cannot be read"),
        (lambda path: pl.DataFrame({"title": ["A"]}).write_parquet(path), "no id: 1"),
    ],
)
def test_other_parquet_files_are_refused_at_once(project, write, said):
    write(project / "s.parquet")
    with pytest.raises(RequestError, match=said):
        check(ALL | {"path": "s.parquet"})


@pytest.mark.parametrize(("wanted", "ids"), [(["hep-ph"], [1, 2]), (["math"], [1, 2]), (["cs"], [3]), (["cs.CL"], [3])])
def test_an_archive_holds_all_its_categories(project, wanted, ids):
    content = text(record(1), record(2), record(3, categories="cs.CL"))
    found = papers(project, content, categories=wanted).scan().collect()
    assert found["id"].to_list() == [f"0704.{number:05d}" for number in ids]


def packed(content: bytes) -> dict[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("arxiv-metadata-oai-snapshot.json", content)
    return {"gzip": gzip.compress(content), "xz": lzma.compress(content), "zip": archive.getvalue()}


@pytest.mark.parametrize("form", ["gzip", "xz", "zip"])
def test_packed_files_read_as_plain_ones_whatever_their_name(project, form):
    content = text(*(record(n) for n in range(500)))
    plain = papers(project, content).scan().collect()
    assert plain.height == 500
    assert papers(project, packed(content)[form]).scan().collect().equals(plain)


@pytest.mark.parametrize("form", ["gzip", "xz", "zip"])
def test_a_cut_file_is_refused_by_name(project, form):
    content = packed(text(*(record(n, abstract=str(n) * 100) for n in range(5000))))[form]
    with pytest.raises(RequestError, match=r"s\.json cannot be read"):
        papers(project, content[: len(content) * 2 // 3])
    assert not (Run("r") / "papers.parquet").exists()


def test_filters_by_any_category_and_by_the_first_version(project):
    later = [{"created": "Sat, 1 Jan 2011 00:00:00 GMT"}]
    content = text(record(1), record(2, versions=later), record(3, categories="cs.CL", versions=later))
    found = papers(project, content, categories=["math.AG", "cs.SD"], since="2010-12-31")
    assert found.scan().collect()["id"].to_list() == ["0704.00002"]
    assert found.counts == {"read": 3, "outside": 2, "repeated": 0, "beyond": 0, "kept": 1}


MALFORMED = {
    "no JSON object of a paper": [
        b"{broken\n",
        b"<html>\n",
        b'["a list"]\n',
        b"null\n",
        b'{"id": "1"} {"id": "2"}\n',
        text(record(1))[:90] + b"\n",
    ],
    "no id": [b"{}\n", text(record(1, id="")), text(record(1, id=None))],
    "invalid date": [
        text(record(1, id="1", versions=[])),
        text(record(1, id="1", versions=None)),
        text(record(1, id="1", versions=[{"created": "yesterday"}])),
        text(record(1, versions=[{"created": "Mon, 31 Feb 2007 19:18:42 GMT"}])),
        text(record(1, update_date="2008-13-26")),
    ],
}
CASES = [(reason, line) for reason, lines in MALFORMED.items() for line in lines]


@pytest.mark.parametrize(("reason", "line"), CASES)
def test_a_malformed_line_is_counted_with_its_number_and_the_rest_is_read(project, reason, line):
    content = text(*(record(n) for n in range(10, 20)), line, b"\n", *(record(n) for n in range(20, 31)))
    found = papers(project, content)
    assert found.counts["kept"] == 21
    assert list(found.faults) == [reason]
    assert found.faults[reason]["rows"] == 1
    assert found.faults[reason]["examples"][0].startswith("s.json, line 11: ")
    assert Run("r").record("harvest")["faults"] == found.faults


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([None, b"\n", *(line for _, line in CASES)]), min_size=1, max_size=60), st.booleans())
def test_wherever_they_stand_good_lines_are_papers_and_others_are_faults(tmp_path_factory, lines, ended):
    folder = tmp_path_factory.mktemp("s")
    content = text(record(0), *(text(record(n)) if line is None else line for n, line in enumerate(lines, 1)))
    (folder / "s.json").write_bytes(content if ended else content.rstrip(b"\n"))
    faults = Faults()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "BLOCK", 3000)
        found = list(snapshot.read(ALL | {"path": str(folder / "s.json")}, folder, faults))
    good = [f"0704.{n:05d}" for n, line in enumerate([None, *lines]) if line is None]
    assert [i for table in found for i in table["id"]] == good
    bad = [n for n, line in enumerate(lines, 2) if line not in (None, b"\n")]
    assert sum(entry["rows"] for entry in faults.values()) == len(bad)
    examples = " ".join(example for entry in faults.values() for example in entry["examples"])
    assert {int(n) for n in re.findall(r"s\.json, line (\d+):", examples)} <= set(bad)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"<!DOCTYPE html>\n<html></html>\n",
            "s.json is not a file for source snapshot: no JSON object of a paper: 2 (s.json, line 1",
        ),
        (b"id,title\n1,One\n", "is not a file for source snapshot"),
        (b'[{"id": "1"}]\n', "is not a file for source snapshot"),
        (b"\n\n", "it has no rows"),
        (b"", "is missing or empty"),
        (b"PK\x03\x04 and no more", "cannot be read: File is not a zip file"),
    ],
)
def test_other_files_are_refused_at_once(project, content, said):
    (project / "s.json").write_bytes(content)
    with pytest.raises(RequestError) as error:
        check(ALL)
    assert said in str(error.value)
