import pytest

from titlesmith.corpus import Corpus
from titlesmith.generate import open_backend

pytest.importorskip("ipywidgets")


def test_a_click_writes_texts_that_begin_as_typed(finished):
    from titlesmith import box

    opened = []

    def open():
        opened.append(True)
        return open_backend(finished)

    parameters = finished.record("generate")["settings"]
    view = box.create(open, Corpus(finished), parameters)
    (beginning, _, count, button), shown = view.children[0].children, view.children[1]
    beginning.value, count.value = "<b>Neural", 2
    assert not opened, "the model is opened at the first click"
    button.click()
    first = shown.value
    assert first.count("&lt;b&gt;Neural") >= 2 and "<b>" not in first and not button.disabled
    button.click()
    assert shown.value != first and len(opened) == 1, "other texts, of the same model"
    beginning.value = "word " * 2000
    button.click()
    assert "exceed the model" in shown.value and not button.disabled
