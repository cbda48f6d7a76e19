import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import corpus_settings
from titlesmith.corpus import build
from titlesmith.corpus.markup import strip
from titlesmith.harvest import SCHEMA
from titlesmith.runs import Run


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("&lt;i&gt;E. coli&lt;/i&gt; growth", "E. coli growth"),
        ("&amp;lt;I&amp;gt;E. coli&amp;lt;/I&amp;gt;", "E. coli"),
        ("<i>E. coli</i> growth", "E. coli growth"),
        ("<h4>Background</h4><p>We study</p>", " Background  We study "),
        ("<jats:p>We <jats:italic>do</jats:italic></jats:p>", " We do "),
        ("H<sub>2</sub>O at 10<sup>-3</sup> <sup>13</sup>C", "H2O at 10^-3 13C"),
        ('<a href="https://x.org?a=b">Link</a><br/>next<br>line', "Link next line"),
        ("<mml:math><mml:mi>x</mml:mi></mml:math> &#8212; &#x3b1; &eacute;", "x — α é"),  # noqa: RUF001
        ("R&amp;D<!-- a note -->", "R&D"),
        ("<p>Cut off", " Cut off"),
        ("p &lt; 0.05", "p < 0.05"),
    ],
)
def test_markup_of_publishers_is_decoded_and_stripped(text, stripped):
    assert strip(text) == strip(strip(text)) == stripped


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "p<0.05, q>0.1",
        "a<b>c and i<p and q>r",
        "the mean <p> of p",
        "<unk> and <s> are tokens </s>",
        "$a<b$ & $c>d$",
        "<|endoftext|>",
        "List<String> x<y>z",
        "AT&T R&D &copy 1 < 2",
        "<script>alert(1)</script>",
        "<http://x.org> <-- arrow -->",
    ],
)
def test_what_is_not_markup_stays(text):
    assert strip(text) == text


PIECES = st.lists(st.sampled_from([*"<>/&;= ", "lt", "gt", "amp", "i", "p", "sub", "h4", "!--", "10"]), max_size=14)


@given(st.text() | PIECES.map("".join))
def test_stripping_again_changes_nothing(text):
    once = strip(text)
    assert strip(once) == once


@pytest.mark.parametrize(("markup", "first", "count"), [("strip", "E. coli 00", 40), ("keep", "<i>E. coli</i> 00", 0)])
def test_markup_is_counted_or_kept_and_prompts_are_treated_like_the_corpus(project, markup, first, count):
    run = Run("r")
    run.begin("harvest", {})
    titles = [f"<i>E. coli</i> {n:02}" if n < 40 else f"Plain {n} < 100" for n in range(60)]
    table = pl.DataFrame({"id": [str(n) for n in range(60)], "title": titles})
    absent = [pl.lit(None, kind).alias(name) for name, kind in SCHEMA.items() if name not in table.columns]
    table.with_columns(absent).write_parquet(run / "papers.parquet")
    run.finish("harvest")
    settings = corpus_settings(vocabulary=400, order="random", markup=markup)
    run.begin("corpus", settings)
    corpus = build(run, settings, None, 100)
    assert sum(row["markup"] for row in corpus.counts) == count
    completions = [text for name in ("train", "valid", "test") for text in corpus.table(name)["completion"]]
    assert first in completions and "Plain 40 < 100" in completions
    assert corpus.clean(titles[0]) == first
