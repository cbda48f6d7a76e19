from titlesmith.tables import html


def test_text_is_text_for_html_and_for_mathjax():
    shown = html([{"title": "<script>alert(1)</script> $x^2$", "n": 1234, "x": 0.5, "y": None, "z": ["a", "b"]}])
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x^2$" in shown
    assert 'class="tex2jax_ignore mathjax_ignore"' in shown
    assert ">1,234<" in shown and ">0.500<" in shown and ">a; b<" in shown
    assert "None" not in shown


def test_no_rows_are_no_error():
    assert html([]) == "<p>None.</p>"


def test_columns_choose_order_and_names():
    shown = html([{"a": 1, "b": 2}], {"b": "second"})
    assert "second" in shown and ">1<" not in shown
    assert "<thead>" not in html([{"a": 1}], {"a": ""})


def test_line_breaks_do_not_end_a_block_of_markdown():
    assert "\n" not in html([{"a": "one\n\ntwo"}])
