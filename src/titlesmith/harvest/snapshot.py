"""Source ``snapshot``: arXiv's metadata as Kaggle publishes it, as JSON lines, Parquet or Arrow."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest import inputs
from titlesmith.harvest.faults import LINE, Faults, at

BLOCK = 8 << 20  # characters of lines parsed together
BATCH = 20_000  # rows of Parquet or Arrow
TABLES = (".parquet", ".arrow", ".feather", ".ipc")
DAY = r"\d{1,2} [A-Z][a-z]{2} \d{4}|\d{4}-\d{2}-\d{2}"  # in Mon, 2 Apr 2007 19:18:42 GMT, or in ISO 8601
MONTH = r"^(?:[a-z-]+(?:\.[A-Z]{2})?/)?(\d{2})(\d{2})"  # in which an identifier was given
NO_OBJECT = "no JSON object of a paper"
UNCHANGED = ("id", "title", "abstract", "doi", "comments", "submitter", "license")
TEXTS = (*UNCHANGED, "authors", "categories", "versions", "update_date", "journal-ref", "report-no")
# A list or an object in a column of text is that text in JSON
SCHEMA = dict.fromkeys(TEXTS, pl.String)
SCHEMA["authors_parsed"] = pl.List(pl.List(pl.String))  # last name, first names, suffix


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``: JSON lines, Parquet or Arrow, as data sets on the hub have them; a file or a folder.

    Papers are dated by their first version. Data sets that have only the names of versions, or none, have the first day
    of the month in the identifier. Rows that are not papers, lack an id or have no date are counted in ``faults``.
    """
    files = inputs.find(settings, folder=True)
    tables = [path for path in files if path.suffix in TABLES]
    for path in tables:
        with inputs.naming(path):
            rows = _as_json(_scan(path), path)
            # Slices need a tenth of the memory of the streaming engine's batches, which reads ahead
            for first in range(0, rows.select(pl.len()).collect().item(), BATCH):
                table = rows.slice(first, BATCH).collect(engine="streaming")
                yield _converted(table.with_row_index(LINE, first + 1), path.name, faults)
    for name, text in inputs.opened([] if tables else files, settings.get("encoding", "utf-8")):
        first, stream = 1, text.buffer if text.encoding == "utf-8" else text  # as bytes it need not be decoded
        while block := stream.read(BLOCK):
            block += stream.readline()
            if stream is text:
                block = block.encode("utf-8", "surrogateescape")
            block += b"" if block.endswith(b"\n") else b"\n"
            if parsed := list(_parsed(block, first, name, faults)):
                yield _converted(pl.concat(parsed), name, faults)
            first += block.count(b"\n")


def _scan(path: Path) -> pl.LazyFrame:
    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    # The datasets library writes streams, in files of at most 500 MB
    return pl.scan_ipc(path) if is_file else pl.read_ipc_stream(path).lazy()


def _as_json(table: pl.LazyFrame, path: Path) -> pl.LazyFrame:
    """A table with the columns of `SCHEMA`, as from JSON lines; null for those that it lacks (RequestError: id)."""
    columns, types = {}, table.collect_schema()
    if "id" not in types:
        raise RequestError(f"harvest.path: {path} is not a snapshot of arXiv: it has no column id")
    for name, kind in SCHEMA.items():
        column = pl.col(name) if name in types else pl.lit(None)
        if kind == pl.String and isinstance(inner := types.get(name), pl.List):
            item = pl.element()
            item = item.struct.field("created") if isinstance(inner.inner, pl.Struct) else item
            column = column.list.eval(item.cast(pl.String)).list.join(", ")
        columns[name] = column.cast(kind)
    return table.select(**columns)


def _parsed(block: bytes, first: int, name: str, faults: Faults) -> Iterator[pl.DataFrame]:
    """The records with their line numbers. A block that fails is parsed in halves, so that only bad lines are lost."""
    lines = block.count(b"\n")
    try:
        table = pl.read_ndjson(block, schema=SCHEMA)
    except pl.exceptions.PolarsError:
        table = None
        if lines == 1:
            faults.add(NO_OBJECT, at(name, first, block.decode("utf-8", "replace")))
    if table is not None and table.height == lines:
        yield table.with_row_index(LINE, first)
    elif lines > 1:  # an empty line makes no row
        middle = (block.rfind(b"\n", 0, len(block) // 2) + 1) or (block.index(b"\n") + 1)
        yield from _parsed(block[:middle], first, name, faults)
        yield from _parsed(block[middle:], first + block.count(b"\n", 0, middle), name, faults)


def _converted(table: pl.DataFrame, name: str, faults: Faults) -> pl.DataFrame:
    # Days of the versions, and of publication
    text = pl.element()
    days = [text.str.to_date(form, strict=False) for form in ("%d %b %Y", "%Y-%m-%d")]
    versions = pl.col("versions").str.extract_all(DAY).list.eval(pl.coalesce(days))
    month = pl.col("id").str.extract_groups(MONTH).struct
    century = pl.when(month.field("1") > "90").then(pl.lit("19")).otherwise(pl.lit("20"))
    named = (century + month.field("1") + month.field("2") + "01").str.to_date("%Y%m%d", strict=False)
    dated = pl.col("versions").list.len() > 0
    table = table.with_columns(versions=versions).with_columns(
        published=pl.when(dated).then(pl.col("versions").list.first()).otherwise(named),
        updated=pl.col("update_date").str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False),
    )
    # Keep the papers
    rules = [
        ("no id", "title", pl.col("id").str.len_bytes() > 0),
        ("invalid date", "id", pl.col("published").is_not_null()),
        ("invalid date", "update_date", pl.col("update_date").is_null() | pl.col("updated").is_not_null()),
    ]
    table = faults.sift(table, name, rules)
    # Authors are lists of names, or a text of names; categories are a list or a text
    names = pl.element().list.slice(0, 2).list.reverse().list.join(" ").str.strip_chars()
    text = pl.col("authors").str.strip_prefix('["').str.strip_suffix('"]').str.replace_all('", "', ", ", literal=True)
    categories = pl.col("categories").str.extract_all(r'[^\s\[\]",]+')
    return table.select(
        *UNCHANGED,
        "published",
        "updated",
        "versions",
        journal_ref="journal-ref",
        report_no="report-no",
        authors=pl.coalesce(pl.col("authors_parsed").list.eval(names), text.str.split(", ")),
        categories=categories,
        primary_category=categories.list.first(),
    )
