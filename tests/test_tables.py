import re
import shutil

import pytest

from conftest import ROOT
from titlesmith.tables import html, table


def test_text_is_text_for_html_and_for_mathjax():
    shown = html([{"title": "<script>alert(1)</script> $x^2$", "n": 1234, "x": 0.5, "y": None, "z": ["a", "b"]}])
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x^2$" in shown
    assert 'tex2jax_ignore mathjax_ignore"' in shown
    assert ">1,234<" in shown and ">0.500<" in shown and ">a; b<" in shown
    assert "None" not in shown


def test_no_rows_are_no_error():
    assert html([]) == '<p class="empty">None.</p>'
    assert "Not measured: &lt;b&gt;" in html([], empty="Not measured: <b>")


def test_columns_without_content_are_not_shown_and_no_prefix_is_named():
    rows = [
        {"prefix": "", "n": 0, "x": 0.0, "y": None, "z": [], "w": 1},
        {"prefix": "A", "n": 0, "x": 0.0, "y": "", "w": 0},
    ]
    shown = html(rows)
    assert re.findall(r"<th[^>]*>(\w+)<", shown) == ["prefix", "x", "w"]
    assert ">(none)</td>" in shown and 'data-label="prefix"' in shown


def test_columns_choose_order_and_names():
    shown = html([{"a": 1, "b": 2}], {"b": "second"})
    assert "second" in shown and ">1<" not in shown
    assert "<thead>" not in html([{"a": 1}], {"a": ""})


def test_line_breaks_do_not_end_a_block_of_markdown():
    assert "\n" not in html([{"a": "one\n\ntwo"}])


def test_true_and_false_are_no_numbers():
    shown = html([{"a": True, "b": False}])
    assert ">yes<" in shown and ">no<" in shown


def test_a_table_is_sorted_by_keyboard_and_saved_in_chromium(tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not (path := shutil.which("chromium")):
        pytest.skip("needs Chromium")
    rows = [
        {"text": text, "n": n}
        for text, n in [("b, c", 10), ('A "q"', 9), ("<a>", -1.5), ("ä", 1000), ("=1+1", 7), (" @a", 8)]
    ]
    script = (ROOT / "book" / "_static" / "tables.js").read_text("utf-8")
    page_file, shown = tmp_path / "page.html", table(rows, {"text": "what", "n": "how many"}, "a.csv").data
    page_file.write_text(f"<!doctype html><meta charset=utf-8><script>{script}</script>{shown}", "utf-8")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_file.as_uri())

        def column(number):
            return page.locator(f"tbody td:nth-child({number})").all_inner_texts()

        heading = page.locator("th").nth(1)
        ordered = ["-1.500", "7", "8", "9", "10", "1,000"]
        for order, values in [("ascending", ordered), ("descending", ordered[::-1])]:
            page.get_by_role("button", name="how many").press("Enter")
            assert (heading.get_attribute("aria-sort"), column(2)) == (order, values)
        page.get_by_role("button", name="what").press("Space")
        assert heading.get_attribute("aria-sort") is None
        assert column(1)[3:] == ["ä", 'A "q"', "b, c"]
        with page.expect_download() as download:
            page.get_by_text("Download as CSV").press("Enter")
        assert download.value.suggested_filename == "a.csv"
        lines = download.value.path().read_text("utf-8-sig").splitlines()
        assert lines[0] == "what,how many" and lines[4:] == ["ä,1000", '"A ""q""",9', '"b, c",10']
        assert set(lines[1:4]) == {"<a>,-1.5", "'=1+1,7", "'@a,8"}, "no cell is a formula"
        browser.close()
