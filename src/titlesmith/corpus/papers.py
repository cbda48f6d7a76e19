"""Papers: the harvested table, cleaned and formatted in batches, so that memory does not grow with their number."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from titlesmith.corpus.clean import clean, clean_all, clean_paragraphs
from titlesmith.corpus.markup import strip_all
from titlesmith.corpus.template import Template

SLICE = 32768  # papers read at a time
BATCH = 1024  # papers cleaned, formatted and tokenized at a time


class Papers:
    """``papers.parquet`` (``path``), cleaned and formatted as the parameters of the corpus notebook say.

    If the template has a field that the papers lack, it is a RequestError.
    """

    def __init__(self, path: Path, template: Template, settings: dict):
        self.template, self._settings = template, settings
        self._scan = pl.scan_parquet(path)
        self._columns = template.columns(self._scan.collect_schema())
        self._height = self._scan.select(pl.len()).collect().item()

    def __len__(self) -> int:
        return self._height

    def batches(self, wanted: np.ndarray | None = None) -> Iterator[pl.DataFrame]:
        """Papers in the order of the file, at most `BATCH` at a time; ``wanted`` is a boolean for each paper of it.

        Columns: ``row`` (number in the file), ``id``, ``published``, ``primary_category``, the cleaned fields of the
        template (the title's column is ``{title}``), ``markup`` (whether some was stripped), ``prompt``,
        ``completion``.
        """
        for first in range(0, len(self), SLICE):
            rows = np.arange(first, min(first + SLICE, len(self)), dtype=np.uint32)
            if wanted is not None:
                rows = rows[wanted[rows]]
            if len(rows):
                columns = ["id", "published", "primary_category"]
                table = self._scan.slice(first, SLICE).select(*columns, **self._columns).collect()
                table = table[rows - first].insert_column(0, pl.Series("row", rows))
                for batch in table.iter_slices(BATCH):
                    yield self._prepare(batch)

    def _prepare(self, batch: pl.DataFrame) -> pl.DataFrame:
        fields = {name: batch[name].cast(pl.String).fill_null("") for name in self._columns}
        stripped = (
            {name: strip_all(text) for name, text in fields.items()} if self._settings["markup"] == "strip" else fields
        )
        markup = pl.any_horizontal(stripped[name] != text for name, text in fields.items())
        for pattern in self._settings["remove"]:
            stripped = {name: text.str.replace_all(f"(?i){pattern}", "") for name, text in stripped.items()}
        keep = self.template.completion_fields if self._settings["paragraphs"] == "keep" else ()
        cleaned = {
            name: clean_paragraphs(text) if name[1:-1] in keep else clean_all(text) for name, text in stripped.items()
        }
        if self._settings["lowercase"]:
            cleaned = {name: text.str.to_lowercase() for name, text in cleaned.items()}
        return self.template.format(batch.with_columns(markup=markup, **cleaned))

    def examples(self, rows: np.ndarray, count: int = 3) -> list[str]:
        """Titles of the first of these rows; the id of a paper without a title."""
        papers = [self._scan.slice(int(row), 1).select("title", "id").collect().row(0) for row in rows[:count]]
        return [clean(title or "") or name for title, name in papers]
