import lzma
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import data
from titlesmith.corpus.latex import characters

PIECES = [
    *"{}$\\ ecio%",
    "\\'",
    '\\"',
    "\\i",
    "\\c",
    "\\o",
    "\\foo",
    "\\$",
    "\\%",
    "\\ ",
    "\\alpha",
    "\\deg",
    "\\(",
    "\\)",
]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"Fr\'echet, Schr{\"o}dinger, Schr\"{o}dinger", "Fréchet, Schrödinger, Schrödinger"),
        (r"na\"{\i}ve na\"\i ve na{\"\i}ve", "naïve naïve naïve"),
        (r"Stra\ss e, Stra{\ss}e, Stra\ss{}e", "Straße, Straße, Straße"),
        (r"Wroc{\l}aw's \L\'od\'z", "Wrocław's Łódź"),
        (r"Utiliza\c{c}\~ao; H\`an di\u{a}n; Ho\v{r}ava; Erd\H os", "Utilização; Hàn diăn; Hořava; Erdős"),
        (r"ti\'{\^e}ng, {\AA}ngstr\"om, \'{\ae}", "tiếng, Ångström, ǽ"),
        (r"360\textdegree{} or 360{\deg} Videos", "360° or 360° Videos"),
        (r"{\alpha}-beta, the function \mu such", "\u03b1-beta, the function \u03bcsuch"),
        (r"55.6\% of R\&D, e.g.\ BSS\_Eval", "55.6% of R&D, e.g. BSS_Eval"),
        (r"\textsc{\'Etude} of {\it \'etudes}", r"\textsc{Étude} of {\it études}"),
    ],
)
def test_accents_and_letters_become_characters(typed, meant):
    assert characters(typed) == meant


@pytest.mark.parametrize(
    "text",
    [
        r"$\'e \alpha$ and $$\o$$ and \(\ss\) and \[\'a\]",
        r"Pr$\epsilon\epsilon$ch of $a\%b$",
        r"of \r{ho}, \~f, \emph{this} and 2 \sim 4",
        r"costs \$5, not \$6",
        r"A -- B --- ``quoted'' one~two",
        "\\",
        r"a\' {\' \c",
    ],
)
def test_mathematics_and_what_has_no_character_stay(text):
    assert characters(text) == text


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_once_is_enough_and_formulas_stay(text):
    once = characters(text)
    assert characters(once) == once
    formula = f"$ {text.replace('$', '')} $"
    assert characters(formula) == formula


def test_real_titles_have_no_accent_left_and_keep_their_formulas():
    for name in ("eess.AS", "cs.CL"):
        content = lzma.decompress(data(f"arxiv/{name}.tsv.xz").read_bytes())
        titles = pl.read_csv(content, separator="\t", infer_schema=False)["title"]
        for title in titles.filter(titles.str.contains(r"\\", literal=False)):
            formulas = re.findall(r"\$[^$]*\$", title)
            assert re.findall(r"\$[^$]*\$", characters(title)) == formulas
            outside = re.sub(r"\$[^$]*\$", "", characters(title))
            assert not re.search(r"\\(?!text(sc|ipa)\{)", outside), title
