import pytest

from titlesmith.evaluate.latex import latex_parses, parses
from titlesmith.evaluate.measurement import MissingError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"We reach $\frac{1}{2}$ of $O(n^{2})$ and 50\% at \$5", True),
        ("50% of $x$", True),
        (r"\emph{new} \unknown{macro}", True),
        ("A formula $x^2 that never ends", False),
        ("50% of $x", False),
        (r"$\frac{1}{2$", False),
        (r"\begin{equation} x", False),
        ("\\mathbf{" * 5000, False),
    ],
)
def test_latex_parses_if_all_that_begins_ends(text, expected):
    assert parses(text) == expected


def test_the_share_is_of_texts_with_latex():
    measurement = latex_parses(["plain", "$x$", "$y", r"\alpha", "a { in plain text"])
    assert measurement.value == pytest.approx(2 / 3)
    with pytest.raises(MissingError, match="no text has LaTeX"):
        latex_parses(["plain"])
