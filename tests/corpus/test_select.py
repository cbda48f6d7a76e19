from datetime import date

import numpy as np
import polars as pl
import pytest

from conftest import corpus_settings
from titlesmith.corpus.papers import BATCH, Papers
from titlesmith.corpus.select import check_patterns, near_duplicates, select
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError

ROWS = {
    "id": ["1", "2", "2", "3", "4", "5", "6"],
    "title": ["One", "Two", "Other", " ONE ", None, "Uno", "Long title of words"],
    "abstract": ["A", "B", "C", "D", "E", "a ", "An adaptation of the novel"],
    "published": [date(2020, 1, d) for d in range(1, 8)],
}


def papers(tmp_path, rows: dict, name: str = "title", **settings) -> Papers:
    frame = pl.DataFrame(rows).with_columns(primary_category=pl.lit("cs.CL"))
    frame.write_parquet(tmp_path / "papers.parquet")
    return Papers(tmp_path / "papers.parquet", template(name), corpus_settings(**settings))


def found(chosen: Papers, **settings) -> tuple[list[int], dict[str, list[int]]]:
    selection = select(chosen, corpus_settings(**settings))
    rows = np.concatenate([np.flatnonzero(selection.kept), *selection.dropped.values()])
    assert sorted(rows) == list(range(len(chosen))), "each paper is kept or counted once"
    return np.flatnonzero(selection.kept).tolist(), {k: v.tolist() for k, v in selection.dropped.items() if len(v)}


def test_papers_are_dropped_by_reason_and_the_older_of_two_stays(tmp_path):
    kept, dropped = found(papers(tmp_path, ROWS))
    assert kept == [0, 1, 5, 6]
    assert dropped == {"no title": [4], "same id": [2], "same title": [3]}
    assert papers(tmp_path, ROWS).examples(np.array([3, 4])) == ["ONE", "4"]


def test_no_text_that_a_template_uses_repeats(tmp_path):
    kept, dropped = found(papers(tmp_path, ROWS, "abstract-to-title"))
    assert kept == [0, 1, 6]
    assert dropped["same abstract"] == [5] and dropped["same title"] == [3]


@pytest.mark.parametrize(
    ("settings", "reason", "rows"),
    [
        ({"min_words": 2}, "fewer than 2 words", [0, 1, 2, 3, 5]),
        ({"max_words": 3}, "more than 3 words", [6]),
        ({"max_characters": 5}, "more than 5 characters", [6]),
        ({"drop": ["^o", "never"]}, "matches ^o", [0, 2, 3]),
        ({"drop": ["(?-i)ONE"]}, "matches (?-i)ONE", [3]),
        ({"drop": ["words$"]}, "matches words$", [6]),
    ],
)
def test_limits_and_patterns(tmp_path, settings, reason, rows):
    assert found(papers(tmp_path, ROWS), **settings)[1][reason] == rows


def test_papers_without_a_date_are_dropped_where_the_date_decides(tmp_path):
    chosen = papers(tmp_path, {"id": ["1", "2"], "title": ["One", "one"], "published": [None, date(2020, 1, 1)]})
    assert found(chosen) == ([1], {"no date": [0]})
    assert found(chosen, order="random") == ([0], {"same title": [1]})


def test_a_pattern_that_is_none_is_refused():
    check_patterns("drop", ["a|b", "(?-i)Novel"])
    with pytest.raises(RequestError, match=r"corpus.drop: '\(a' is not a regular expression"):
        check_patterns("drop", ["(a"])


def test_batches_are_the_papers_in_order_and_repeats_are_found_across_them(tmp_path):
    count = 2 * BATCH + 5
    rows = {"id": [str(i) for i in range(count)], "title": [f"Title {i % (count - 3)}" for i in range(count)]}
    chosen = papers(tmp_path, rows | {"published": [date(2020, 1, 1)] * count})
    assert pl.concat(chosen.batches())["row"].to_list() == list(range(count))
    wanted = np.arange(count) % 3 == 1
    assert pl.concat(chosen.batches(wanted))["row"].to_list() == list(range(1, count, 3))
    assert found(chosen)[1] == {"same title": [count - 3, count - 2, count - 1]}


def test_near_duplicates_are_found_by_their_similarity(tmp_path):
    titles = ["Attention is all you need", "Attention is all you need!", "From speech to text", "From text to speech"]
    rows = {"id": list("abcd"), "title": titles, "published": [date(2020, 1, 1)] * 4}
    assert found(papers(tmp_path, rows), near_duplicates=0.8) == (
        [0, 2, 3],
        {"similarity to an older paper >= 0.8": [1]},
    )
    assert found(papers(tmp_path, rows))[0] == [0, 1, 2, 3]
    assert near_duplicates(enumerate(["", "a", "", "A"]), 0.5) == [2, 3]


def test_paragraphs_are_kept_in_the_completion_and_patterns_are_removed(tmp_path):
    text = "First  line.\r\n\r\n  Second (Source: ANN) line.\n \nThird."
    rows = {"id": ["1"], "title": ["a\nb"], "abstract": [text], "published": [date(2020, 1, 1)]}
    (batch,) = papers(tmp_path, rows, "{title} -> {abstract}", paragraphs="keep", remove=[r"\(source: .*?\)"]).batches()
    assert batch["completion"].item() == "First line.\nSecond line.\nThird." and batch["prompt"].item() == "a b"
    (batch,) = papers(tmp_path, rows, "{abstract}").batches()
    assert batch["completion"].item() == "First line. Second (Source: ANN) line. Third."
