import io
import re
import zipfile
from csv import writer
from datetime import date

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.errors import RequestError
from titlesmith.harvest import check, csv, harvest
from titlesmith.harvest.schema import Faults
from titlesmith.runs import Run

ALL = {"source": "csv", "path": "t.csv", "columns": {}, "encoding": "utf-8"}
ALL |= {"categories": [], "since": "", "until": "", "max_results": 0}
SYNOPSES = {"title": "name", "abstract": "synopsis"}


def papers(project, content: str | bytes, encoding: str = "utf-8", **given):
    (project / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    run = Run("r")
    run.begin("harvest", {})
    return harvest(run, ALL | {"encoding": encoding} | given)


def test_columns_become_fields_and_others_are_kept(project):
    content = (
        'name,year,synopsis,genre\n"Hamlet, Prince",1603,"A prince\nof ""Denmark""",tragedy\nMacbeth,1606,,tragedy\n'
    )
    found = papers(project, content, columns=SYNOPSES).scan().collect()
    assert found.columns[-2:] == ["year", "genre"]
    assert found.select("id", "title", "abstract", "year", "genre", "published").rows() == [
        ("row.0000001", "Hamlet, Prince", 'A prince\nof "Denmark"', "1603", "tragedy", None),
        ("row.0000002", "Macbeth", None, "1606", "tragedy", None),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_delimiter_is_detected(project, delimiter, end):
    rows = [["id", "title", "abstract"], ["a", "One; two, three", "x | y"], ["b", "Two", "a, b; c"]]
    content = end.join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    found = papers(project, content).scan().select("id", "title", "abstract").collect()
    assert found.rows() == [tuple(row) for row in rows[1:]]


def test_one_column_is_a_table_too(project):
    found = papers(project, "title\nA man, a plan\nNo; yes\n").scan().collect()
    assert found["title"].to_list() == ["A man, a plan", "No; yes"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(project, encoding):
    found = papers(project, "title,note\nNaïve Bayes,é\n", encoding).scan().collect()
    assert found.row(0, named=True)["title"] == "Naïve Bayes"


def test_what_cannot_be_decoded_is_counted_and_its_row_stays(project):
    found = papers(project, b"title,note\nOne,a\nNa\xefve,b\nReplaced \xef\xbf\xbd,c\n")
    assert found.scan().collect()["title"].to_list() == ["One", "Na\ufffdve", "Replaced \ufffd"]
    (entry,) = found.faults.values()
    assert entry == {"rows": 2, "examples": ["row.0000002: 'Na\ufffdve'"]}


def test_a_mapped_field_hides_the_column_of_its_name(project):
    found = papers(project, "title,name\nMr,Hamlet\n", columns={"title": "name"}).scan().collect()
    assert found.row(0, named=True)["title"] == "Hamlet"
    assert found["title (column)"].to_list() == ["Mr"]


def test_columns_may_have_any_name(project):
    names = ["title", "read", "row", "file", "line", "index", "column", "", "read", "len"]
    found = papers(project, ",".join(names) + "\n" + ",".join("abcdefghij") + "\n").scan().collect()
    assert found.select("title", "read", "row", "file", "line", "index", "column").row(0) == tuple("abcdefg")
    assert found.select("column 8", "read 9", "len").row(0) == tuple("hij")


def test_lists_and_primary_category(project):
    content = 'title,who,tags\nOne,"A. B., C. D.",cs.CL eess.AS\nTwo,E. F.; G. H.,"math.AG, cs.SD"\nThree,,\n'
    columns = {"authors": "who", "categories": "tags"}
    found = (
        papers(project, content, columns=columns).scan().select("authors", "categories", "primary_category").collect()
    )
    assert found.rows() == [
        (["A. B.", "C. D."], ["cs.CL", "eess.AS"], "cs.CL"),
        (["E. F.", "G. H."], ["math.AG", "cs.SD"], "math.AG"),
        (None, None, None),
    ]


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ("['cs.CV', 'cs.LG']", ["cs.CV", "cs.LG"]),
        ('["cs.CV", "cs.LG"]', ["cs.CV", "cs.LG"]),
        ("['math.CO cs.CG']", ["math.CO", "cs.CG"]),
        ("{cs.CV,cs.LG}", ["cs.CV", "cs.LG"]),
        ('["Machine Learning", null]', ["Machine Learning"]),
        ("Machine Learning; Computer Vision", ["Machine Learning", "Computer Vision"]),
        ("Machine Learning|Computer Vision", ["Machine Learning", "Computer Vision"]),
        ("Engineering, Finance, and Science; Optics", ["Engineering, Finance, and Science", "Optics"]),
        ("Machine Learning", ["Machine Learning"]),
        ("hep-ph math.AG", ["hep-ph", "math.AG"]),
        ("[]", None),
        ("['A. B.', \"C. O'D.\"]", ["A. B.", "C. O'D."]),
        ("[A. B., C. D.]", ["A. B.", "C. D."]),
    ],
)
def test_a_cell_holds_a_list(project, cell, items):
    content = io.StringIO()
    writer(content).writerows([("title", "categories"), ("One", cell)])
    found = papers(project, content.getvalue()).scan().collect()
    assert found["categories"].to_list() == [items]
    assert found["primary_category"].to_list() == [items and items[0]]


def test_nested_brackets_are_read_within_limits(project):
    assert papers(project, f"title,authors\nOne,{'[' * 50_000 + ']' * 50_000}\n").counts["kept"] == 1


def test_a_long_cell_is_one_cell(project):
    long = "word, \n" * 50_000
    found = papers(project, f'title,abstract\nOne,"{long}"\nTwo,short\n')
    assert found.scan().collect()["abstract"].to_list() == [long, "short"] and not found.faults


@pytest.mark.parametrize(
    "content", ["\n\n  \ntitle;note\nA, b;c\n", ";;\n;;\n\ntitle;note\nA, b;c\n;\n\n;\n", 'title, note\n"A, b", "c"\n']
)
def test_tables_as_excel_and_people_write_them(project, content):
    found = papers(project, content)
    assert found.scan().select("title", "note").collect().rows() == [("A, b", "c")] and not found.faults


@pytest.mark.parametrize("given", ["utf-8", "latin-1"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-16-le"])
def test_a_byte_order_mark_decides_the_encoding(project, encoding, given):
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    found = papers(project, (mark + "title,note\nΔ Naïve \U0001d538,é\n").encode(encoding), encoding=given)
    assert found.scan().collect()["title"].to_list() == ["Δ Naïve \U0001d538"] and not found.faults


def test_utf_16_without_a_mark_and_with_half_a_character_is_read(project):
    found = papers(project, "title,note\nOne,a\nTwo,b\n".encode("utf-16-le")[:-1])
    assert found.scan().collect()["title"].to_list() == ["One", "Two"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp037"])
def test_a_wrong_encoding_is_named(project, encoding):
    with pytest.raises(RequestError, match=rf"harvest\.encoding.*{encoding}"):
        papers(project, b"title,note\nOne,twos\n", encoding)


def packed(**members: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return archive.getvalue()


def test_hidden_and_empty_members_of_a_zip_are_skipped(project):
    junk = ["__MACOSX/._t.csv", ".DS_Store", "data/.hidden.csv", "Thumbs.db", "data/desktop.ini"]
    content = packed(**dict.fromkeys(junk, "\0\1"), **{"empty.csv": "", "data/t.csv": "title\nOne\n"})
    assert papers(project, content).scan().collect()["title"].to_list() == ["One"]
    with pytest.raises(RequestError, match="it has no rows"):
        papers(project, packed(**{"a.csv": ""}))


def test_a_primary_category_alone_is_the_category(project):
    content = "title,subject\nA,cs.CL\nB,\nC,cs.SD\n"
    found = papers(project, content, columns={"primary_category": "subject"}, categories=["cs.CL"]).scan().collect()
    assert found.select("title", "primary_category", "categories").rows() == [("A", "cs.CL", ["cs.CL"])]


DATES = """2019-03-08|2019-03-08T12:00:00Z|2019-03-08 12:00:00+00:00|2019/03/08|8.3.2019|8 Mar 2019|8 March 2019
March 8, 2019|Mar 8 2019|Fri, 8 Mar 2019 19:18:42 GMT| 2019-03-08 |20190308|20190308.0|2019.03.08|2019-3-8"""


@pytest.mark.parametrize("text", re.split(r"[|\n]", DATES))
def test_dates_as_people_write_them(project, text):
    found = papers(project, f'title,published\nOne,"{text}"\nTwo,\n')
    assert found.scan().collect()["published"].to_list() == [None, date(2019, 3, 8)] and not found.faults


@pytest.mark.parametrize(
    ("text", "month"),
    [("2010.0", 1), ("2010", 1), ("January 2010", 1), ("Jan-2010", 1), ("2010-09", 9)],
)
def test_a_year_or_a_month_is_its_first_day(project, text, month):
    found = papers(project, f"title,published\nOne,{text}\n").scan().collect()
    assert found["published"].to_list() == [date(2010, month, 1)]


@pytest.mark.parametrize("text", ["10-Jan-20", "Jan-20", "1/1/19", "43840", "202001", "2020.01", "19", "32-01-2020"])
def test_a_cell_with_more_than_one_reading_is_not_a_date(project, text):
    found = papers(project, f"title,published\nOne,{text}\nTwo,2020\n")
    assert found.counts["kept"] == 1 and found.faults["invalid date"]["rows"] == 1


@pytest.mark.parametrize("text", ["NaT", "nan", "None", "<NA>", "NULL", "-", "N/A"])
def test_a_missing_date_as_programs_write_it_is_null(project, text):
    found = papers(project, f"title,published\nOne,{text}\n")
    assert found.scan().collect()["published"].to_list() == [None] and not found.faults


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "\n\nsep=;\n", ""])
def test_a_first_line_of_excel_names_the_delimiter(project, first):
    found = papers(project, f'{first}title;abstract\n"A, b"; "c; d"\n').scan().collect()
    assert found.select("title", "abstract").rows() == [("A, b", "c; d")]


def test_a_header_without_rows_is_refused(project):
    with pytest.raises(RequestError, match=r"t\.csv is not a file for source csv: it has no rows"):
        papers(project, "title,abstract\n")


def test_an_encoding_that_the_file_does_not_have_is_refused(project):
    with pytest.raises(RequestError, match=r"t\.csv cannot be read: UTF-16"):
        papers(project, b"title,abstract\nOne,Two\n", "utf-16")


@pytest.mark.parametrize(("other", "meant"), [("12/31/2018", date(2019, 3, 8)), ("31/12/2018", date(2019, 8, 3))])
def test_slashes_mean_what_the_first_rows_say(project, other, meant):
    found = papers(project, f"title,published\nOne,{other}\nTwo,3/8/2019\n").scan().collect()
    assert found["published"].to_list() == [date(2018, 12, 31), meant]


@pytest.mark.parametrize(
    ("row", "reason", "shown"),
    [
        ("x,Two", "wrong number of columns", "2 instead of 3"),
        ("x,Two,2020-01-01,more", "wrong number of columns", "4 instead of 3"),
        ('x,"Two,2020-01-01', "wrong number of columns", "'x,\"Two,2020-01-01"),
        (",Two,2020-01-01", "no id", "'Two'"),
        ("x,Two,soon", "invalid date", "'soon'"),
        ("x,Two,2019-02-30", "invalid date", "'2019-02-30'"),
        ("x,Two,1/1/19", "invalid date", "'1/1/19'"),
    ],
)
def test_a_malformed_row_is_counted_with_its_line_and_the_rest_is_read(project, row, reason, shown):
    lines = ["id,title,published", 'a,"One\none",2020-01-01', row, "", "b,Three,2020-01-02", 'c,"Four",2020-01-03']
    found = papers(project, "\n".join(lines))
    assert found.scan().collect()["id"].to_list() == ["a", "b", "c"]
    assert list(found.faults) == [reason]
    assert found.faults[reason]["rows"] == 1
    example = found.faults[reason]["examples"][0]
    assert example.startswith("t.csv, line 4: ") and shown in example


def test_a_quote_that_is_none_is_text(project):
    found = papers(project, 'title,note\n"Ah" he said,a\n"Two",b\n5" disks,c\n')
    assert found.scan().collect()["title"].to_list() == ["Ah he said", "Two", '5" disks']
    assert not found.faults


cell = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(cell, cell), max_size=12), st.sampled_from([";", ",", "\t"]), st.sampled_from([2, 10_000]))
def test_what_was_written_is_read(tmp_path_factory, rows, delimiter, batch):
    folder = tmp_path_factory.mktemp("c")
    table = pl.DataFrame(rows, {"title": pl.String, "abstract": pl.String}, orient="row")
    table.write_csv(folder / "t.csv", separator=delimiter, quote_style="always")
    faults = Faults()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("titlesmith.harvest.csv.BATCH", batch)
        found = list(csv.read(ALL | {"path": str(folder / "t.csv")}, folder, faults))
    read = [row for part in found for row in part.select("title", "abstract").rows()]
    assert read == [(title or None, abstract or None) for title, abstract in rows if title or abstract]
    assert not faults


@pytest.mark.parametrize(
    ("content", "given", "said"),
    [
        (
            "name,synopsis\n",
            {"columns": {"title": "nam"}},
            "'nam' is not a column. Did you mean name? t.csv has: name, s",
        ),
        ("name,synopsis\n", {"columns": {"titel": "name"}}, "'titel' is not a field. Did you mean title?"),
        ("name,synopsis\n", {"columns": {"doi": "name"}}, "add a title or an abstract"),
        ("title\n", {"encoding": "utf9"}, "harvest.encoding: unknown encoding: utf9"),
        ("title\n", {"encoding": "base64"}, "'base64' is not a text encoding"),
        ("<!DOCTYPE html>\n<html></html>\n", {}, "t.csv has: <!DOCTYPE html>"),
        ("", {}, "t.csv is missing or empty"),
        ("title" * 4_000_000 + "\n", {}, "t.csv cannot be read: field larger than field limit"),
    ],
)
def test_wrong_requests_are_refused_at_once(project, content, given, said):
    (project / "t.csv").write_text(content)
    with pytest.raises(RequestError) as error:
        check(ALL | given)
    assert said in str(error.value)


def test_a_column_named_versions_is_kept_apart(project):
    found = papers(project, "title,versions\nOne,v1\n").scan().collect()
    assert found.select("versions", "versions (column)").row(0) == (None, "v1")


def test_lines_joined_by_an_unmatched_quote_are_read_separately(project):
    more = [f"{n}\tMore {n}\tx" for n in range(9)]
    lines = ['a\t"Two "words\tx', "b\tThree\tx", 'c\tFour "x"\tx', 'd\t"Five\tx', *more]
    found = papers(project, "id\ttitle\tnote\n" + "\n".join(lines))
    kept = set(found.scan().collect()["id"])
    assert kept >= {"b", "c", *map(str, range(9))} and len(kept) + sum(f["rows"] for f in found.faults.values()) == 13
