"""Papers: the harvested table, cleaned and formatted in batches, so that memory does not grow with their number."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from titlesmith.corpus.clean import clean, clean_paragraphs
from titlesmith.corpus.markup import strip
from titlesmith.corpus.template import Template

BATCH = 1024  # papers cleaned, formatted and tokenized at a time


class Papers:
    """``papers.parquet``, cleaned and formatted by the settings of notebook 02 (RequestError if a field is missing)."""

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
        table = self._scan.select("id", "published", "primary_category", **self._columns).with_row_index("row")
        for batch in table.collect_batches(chunk_size=BATCH):
            some = batch if wanted is None else batch.filter(wanted[batch["row"].to_numpy()])
            if some.height:
                yield self._prepare(some)

    def _prepare(self, batch: pl.DataFrame) -> pl.DataFrame:
        kept = self.template.completion_fields if self._settings["paragraphs"] == "keep" else ()
        cleaned, markup = {}, pl.lit(False)
        for name in self._columns:
            text = original = batch[name].cast(pl.String).fill_null("")
            if self._settings["markup"] == "strip":
                text = text.map_elements(strip, pl.String)
                markup |= text != original
            for pattern in self._settings["remove"]:
                text = text.str.replace_all(f"(?i){pattern}", "")
            text = text.map_elements(clean_paragraphs if name[1:-1] in kept else clean, pl.String)
            cleaned[name] = text.str.to_lowercase() if self._settings["lowercase"] else text
        return self.template.format(batch.with_columns(markup=markup, **cleaned))

    def examples(self, rows: np.ndarray, count: int = 3) -> list[str]:
        """Titles of the first of these rows; the id of a paper without a title."""
        papers = [self._scan.slice(int(row), 1).select("title", "id").collect().row(0) for row in rows[:count]]
        return [clean(title or "") or name for title, name in papers]
