"""The web page of an adapter that another program trained, with a tiny LLaMA."""

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs Gradio")
pytest.importorskip("peft", reason="needs titlesmith[hf]")

from tiny import adapter, made
from titlesmith import cli
from titlesmith.app.page import build_page
from titlesmith.app.service import Service
from titlesmith.corpus.template import DEFAULTS
from titlesmith.errors import RequestError
from titlesmith.generate.source import open_adapter_source

ABSTRACT = "We study echo."


@pytest.fixture
def source(project, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(project)
    made(project, "llama", "sentencepiece")
    adapter(project)
    return open_adapter_source(Path("adapter"), "hf:llama", "none", None, None)


def test_the_model_reads_the_ids_that_alpaca_lora_trains_with(project, source):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(project / "models" / "llama")
    prompt = source.format.template.fill_prompt({"abstract": ABSTRACT})
    ids = source.format.layout.prompt_ids(prompt)
    assert ids == tokenizer(f"{prompt}\n")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids


def test_instruction_and_input_are_two_boxes(source):
    service = Service(source)
    assert service.task == "a title for my abstract"
    components = {c.label: c for c in build_page(service).blocks.values() if getattr(c, "label", None)}
    assert components["Instruction"].value == DEFAULTS["instruction"] and "Input: your abstract" in components
    settings = {"count": 2, "max_tokens": 8, "seed": 1}
    default, other = (
        service.write({"instruction": text, "abstract": ABSTRACT}, **settings)
        for text in (DEFAULTS["instruction"], "Write a title.")
    )
    assert len(default["texts"]) == 2 and default != other
    assert all(row["nearest"] is None for row in default["texts"])


def test_a_run_or_an_adapter_is_served(source):
    for run, folder in ((None, None), ("small", Path("adapter"))):
        with pytest.raises(RequestError, match="serves a run or an adapter"):
            cli.books.app(run, adapter=folder)
    with pytest.raises(RequestError, match="--base"):
        cli.books.app(None, adapter=Path("adapter"), base="llama")
