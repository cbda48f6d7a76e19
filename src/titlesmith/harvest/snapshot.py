"""Source ``snapshot``: arXiv's metadata from Kaggle, one JSON object per line."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from titlesmith.harvest import inputs
from titlesmith.harvest.faults import LINE, Faults, at

BLOCK = 8 << 20  # characters of lines parsed together
# The first version's date, or its name in snapshots that keep only the names
FIRST = r'^\[(?:\{[^{}]*?"created": ?)?"([^"]*)"'
MONTH = r"^(?:[a-z-]+(?:\.[A-Z]{2})?/)?(\d{2})(\d{2})"  # in which an identifier was given
NO_OBJECT = "no JSON object of a paper"
UNCHANGED = ("id", "title", "abstract", "doi", "comments")
# A list or an object in a column of text is that text in JSON
SCHEMA = dict.fromkeys((*UNCHANGED, "authors", "categories", "versions", "update_date", "journal-ref"), pl.String)
SCHEMA["authors_parsed"] = pl.List(pl.List(pl.String))  # last name, first names, suffix


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; papers are dated by their first version.

    Snapshots such as those of arxiv-public-datasets have only the names of versions: then the date is the first day of
    the month in the identifier. Lines that are not the JSON object of a paper, lack an id or have an invalid date are
    counted in ``faults``.
    """
    for name, text in inputs.opened(settings):
        first, stream = 1, text.buffer if text.encoding == "utf-8" else text  # as bytes it need not be decoded
        while block := stream.read(BLOCK):
            block += stream.readline()
            if stream is text:
                block = block.encode("utf-8", "surrogateescape")
            block += b"" if block.endswith(b"\n") else b"\n"
            if tables := list(_parsed(block, first, name, faults)):
                yield _converted(pl.concat(tables), name, faults)
            first += block.count(b"\n")


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
    # The date of publication, from the first version or from the identifier
    created = pl.col("versions").str.extract(FIRST)
    day = created.str.extract(r"^\w{3}, (\d{1,2} \w{3} \d{4}) ")  # Mon, 2 Apr 2007 19:18:42 GMT
    month = pl.col("id").str.extract_groups(MONTH).struct
    century = pl.when(month.field("1") > "90").then(pl.lit("19")).otherwise(pl.lit("20"))
    named = pl.when(created.str.contains(r"^v?\d*$")).then(century + month.field("1") + month.field("2"))
    formats = ((day, "%d %b %Y"), (created, "%Y-%m-%d"), (named + "01", "%Y%m%d"))
    published = pl.coalesce(text.str.to_date(form, strict=False) for text, form in formats)
    updated = pl.col("update_date").str.to_date("%Y-%m-%d", strict=False)
    # Keep the papers
    table = table.with_columns(created=created, published=published, updated=updated)
    rules = [
        (NO_OBJECT, "versions", pl.col("versions").str.starts_with("[").fill_null(True)),
        ("no id", "title", pl.col("id").str.len_bytes() > 0),
        ("invalid date", "created", pl.col("published").is_not_null()),
        ("invalid date", "update_date", pl.col("update_date").is_null() | pl.col("updated").is_not_null()),
    ]
    table = faults.sift(table, name, rules)
    # Authors are lists of names, or a text of names; categories are a list or a text
    names = pl.element().list.slice(0, 2).list.reverse().list.join(" ").str.strip_chars()
    text = pl.col("authors")
    quoted = text.str.strip_prefix('["').str.strip_suffix('"]').str.split('", "')
    listed = pl.when(text.str.starts_with('["')).then(quoted).otherwise(text.str.split(", "))
    categories = pl.col("categories").str.extract_all(r'[^\s\[\]",]+')
    return table.select(
        *UNCHANGED,
        "published",
        "updated",
        journal_ref="journal-ref",
        authors=pl.coalesce(pl.col("authors_parsed").list.eval(names), listed),
        categories=categories,
        primary_category=categories.list.first(),
    )
