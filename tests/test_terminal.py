import io
import json
import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny import adapter, made, quick
from titlesmith import cli, terminal
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError
from titlesmith.experiment import declared


def generate(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["titlesmith", "generate", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_json_is_one_line_per_text(finished, monkeypatch, capsys):
    arguments = ["small", "--prefix", "Neur", "--prefix", "", "-n", "2", "--max-tokens", "8", "--json", "--seed", "3"]
    assert generate(monkeypatch, *arguments) == 0
    output = capsys.readouterr()
    rows = [json.loads(line) for line in output.out.splitlines()]
    assert [row["prefix"] for row in rows] == ["Neur", "Neur", "", ""]
    assert all(row["text"].startswith(row["prefix"]) and list(row) == list(finished.texts[0]) for row in rows)
    assert "Neur: 0 of 108 training texts" in output.err
    assert generate(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == output.out, "the same seed"


def test_texts_are_printed_in_groups_with_marks(finished, monkeypatch, capsys):
    assert generate(monkeypatch, "small", "--prefix", "a\tb", "-n", "1", "--max-tokens", "1", "--top-k", "1") == 0
    output = capsys.readouterr()
    assert output.out.startswith("\na b\n  a b") and output.out.endswith("  [unfinished]\n")
    assert "'a\\tb' is continued as 'a b'" in output.err and "\na b: " in output.err


def test_the_default_count_of_a_beam_search_is_the_number_of_beams(finished, monkeypatch, capsys):
    assert generate(monkeypatch, "small", "--prefix", "Neur", "--beams", "3", "--max-tokens", "8", "--json") == 0
    assert len(rows(capsys)) == 3


def test_a_run_s_own_settings_are_the_defaults(finished, monkeypatch, capsys):
    assert generate(monkeypatch, "small", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == finished.texts, "the texts of notebook 04"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "there is no run none; there are small"),
        (["small", "--temperature", "0"], "--temperature: '0' is not allowed"),
        (["small", "--top-k", "many"], "--top-k: 'many' is not allowed"),
        (
            ["small", "--beams", "4", "-n", "5"],
            "--count: 5 texts of 4 beams: a beam search returns at most one text per beam. Lower count to 4",
        ),
        (["small", "--title", "x"], "run small continues a beginning, and has no prompt with title. Set the beginning"),
        (["small", "--abstract", "nowhere.txt"], "--abstract 'nowhere.txt' cannot be read"),
        (["small", "--field", "year"], "--field 'year': it needs the form key=value"),
        (
            ["small", "--prefix", "word " * 2000],
            "(10001 tokens) exceed the model's context of 256 tokens. Shorten the prompt or the prefix",
        ),
        (["small", "--min-tokens", "30", "--max-tokens", "10"], "--min-tokens: 30 is more than max_tokens, 10. Lower"),
        (["small", "--prefix", "bad\udcff"], r"'bad\xff' is not valid UTF-8"),
    ],
)
def test_a_mistake_is_an_error_with_its_option(finished, monkeypatch, capsys, arguments, message):
    assert generate(monkeypatch, *arguments) == 2
    output = capsys.readouterr()
    assert message in output.err and not output.out


def test_an_unknown_option_is_an_error(finished, monkeypatch, capsys):
    assert generate(monkeypatch, "small", "--temprature", "1") == 2


def test_every_parameter_of_the_notebook_is_an_option(project, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert generate(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for name in declared("generate"):
        if name not in terminal.OTHER_OPTIONS:
            assert f"--{name.replace('_', '-')} " in shown
    assert "--prefix" in shown and "-n " in shown
    kinds = declared("finetune")["quantize"].constraint.choices
    assert f"<{'|'.join(kinds)}>" in shown


def test_fields_must_be_those_of_the_template():
    terminal.check_fields(template("title-to-abstract"), {"title": "x"}, "r")
    for fields, message in [
        ({"abstract": "x"}, "from title: abstract is not part of the prompt; title is missing: --title TEXT"),
        ({"title": "x", "year": "2024"}, "year is not part of the prompt"),
    ]:
        with pytest.raises(RequestError, match=message):
            terminal.check_fields(template("title-to-abstract"), fields, "r")
    with pytest.raises(RequestError, match="category is missing: --field category=TEXT"):
        terminal.check_fields(template("category-title-to-abstract"), {"title": "x"}, "r")


def test_an_abstract_comes_from_a_file_or_from_standard_input(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Schön.\n", "utf-8")
    assert terminal.read_text(str(tmp_path / "a.txt")) == "Schön.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grün.".encode())))
    assert terminal.read_text("-") == "Grün."
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(RequestError, match="as text in UTF-8"):
        terminal.read_text(str(tmp_path / "a.txt"))


SHORT = ["-n", "2", "--max-tokens", "8", "--json"]


@pytest.fixture
def llama(project, monkeypatch):
    """A project with a tiny LLaMA, an adapter for it as others publish theirs, and an abstract; no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(project)
    made(project, "llama", "sentencepiece")
    adapter(project)
    (project / "a.txt").write_text("We study speech.")
    return project


def save_in_the_old_format(folder) -> None:
    """Rewrites an adapter as peft of 2023 saved those of alpaca-lora."""
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    keys = ("base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules", "task_type", "peft_type")
    told = json.loads((folder / "adapter_config.json").read_text())
    old = {"enable_lora": None, "merge_weights": False, "fan_in_fan_out": False, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({key: told[key] for key in keys} | old))


def rows(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_adapter_trained_elsewhere_generates_titles_in_either_file_format(llama, monkeypatch, capsys):
    arguments = ["--adapter", "adapter", "--abstract", "a.txt", *SHORT]
    assert generate(monkeypatch, *arguments) == 0
    first = rows(capsys)
    prompt = template("chatgentitle").fill_prompt({"abstract": "We study speech."})
    assert [row["prompt"] for row in first] == [prompt, prompt]
    assert first[0]["nearest_id"] is first[0]["nearest_similarity"] is None, "no training text is known"
    save_in_the_old_format(llama / "adapter")
    assert generate(monkeypatch, *arguments) == 0
    assert rows(capsys) == first


def test_the_texts_depend_on_the_matrices_of_the_adapter(llama, monkeypatch, capsys):
    arguments = ["--adapter", "adapter", "--abstract", "a.txt", "--prefix", "Echo", *SHORT]
    arguments += ["--template", "abstract-to-title"]
    assert generate(monkeypatch, *arguments) == 0
    first = rows(capsys)
    assert all(row["text"].startswith("Echo") and row["prompt"].endswith("Title:") for row in first)
    file = llama / "adapter" / "adapter_model.safetensors"
    save_file({name: -3 * weight for name, weight in load_file(file).items()}, file)
    assert generate(monkeypatch, *arguments) == 0
    assert rows(capsys) != first


def test_a_run_lends_its_template_and_its_training_texts(llama, monkeypatch, capsys):
    run = quick("titles", "hf:llama", lora_rank=2)
    capsys.readouterr()
    arguments = ["titles", "--prefix", "Neural", "--seed", "5", *SHORT]
    assert generate(monkeypatch, *arguments) == 0
    own = rows(capsys)
    assert generate(monkeypatch, *arguments, "--adapter", str(run / "model")) == 0
    assert rows(capsys) == own, "its own adapter"
    assert generate(monkeypatch, *arguments, "--adapter", "adapter") == 0
    other = rows(capsys)
    assert other != own and all(row["nearest"] for row in other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a run, or an adapter with --adapter FOLDER"),
        (["--template", "alpaca"], "--template needs an adapter"),
        (["none", "--base", "hf:llama"], "--base needs an adapter"),
        (["--adapter", "nowhere"], "it lacks adapter_config.json and adapter_model.safetensors or adapter_model.bin"),
        (
            ["--adapter", "adapter"],
            "in adapter writes title from abstract: abstract is missing: --abstract FILE",
        ),
        (["--adapter", "adapter", "--title", "x"], "title is not part of the prompt; abstract is missing"),
        (["--adapter", "adapter", "--base", "llama"], "--base 'llama': an adapter needs a model"),
        (["--adapter", "adapter", "--base", "hf:nobody/none"], "the hub cannot be reached"),
        (["--adapter", "adapter", "--base", "hf:narrow"], "does not fit the model"),
        (["--adapter", "adapter", "--base", "hf:short"], "4 matrices are only in one of them"),
        (["--adapter", "adapter", "--template", "alpacca"], "--template: there is no template 'alpacca'"),
        (["--adapter", "adapter", "--template", "chat"], "none"),
        (["--adapter", "adapter", "--held-out", "3"], "a run's corpus has held-out papers"),
        (["--adapter", "adapter", "--quantize", "2bit"], "'2bit' is not one of"),
        (["--adapter", "adapter", "--beams", "2", "-n", "3"], "3 texts of 2 beams"),
    ],
)
def test_an_unusable_adapter_is_an_error_with_a_remedy(llama, monkeypatch, capsys, arguments, message):
    if {"hf:narrow", "hf:short"} & set(arguments):
        made(llama, "llama", "sentencepiece", "narrow", hidden_size=16)
        made(llama, "llama", "sentencepiece", "short", num_hidden_layers=1)
    abstract = [] if "abstract is missing" in message else ["--abstract", "a.txt"]
    assert generate(monkeypatch, *arguments, *abstract) == (1 if "hub cannot be reached" in message else 2)
    output = capsys.readouterr()
    assert message in output.err and not output.out


def test_nothing_in_an_adapter_is_executed(llama, monkeypatch, capsys):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(llama / "owned"),)

    folder = llama / "adapter"
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"lora_A": Evil()}, folder / "adapter_model.bin")
    assert generate(monkeypatch, "--adapter", "adapter", "--abstract", "a.txt") == 2
    assert "or is damaged" in capsys.readouterr().err
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    assert generate(monkeypatch, "--adapter", "adapter", "--abstract", "a.txt") == 2
    assert not (llama / "owned").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_output_fits_into_any_encoding_and_json_stays_json(monkeypatch, encoding):
    text, out, err = "Δ \U0001d538 é \ud800", io.BytesIO(), io.BytesIO()

    def command() -> None:
        print(json.dumps(text, ensure_ascii=False))
        raise RequestError(f"no run is named {text}")

    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, write_through=True))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, write_through=True))
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert json.loads(out.getvalue().decode(encoding)) == text
    assert "no run is named" in err.getvalue().decode(encoding)


def test_prefixes_are_kept_as_typed(finished, monkeypatch, capsys):
    typed = ["On", "2020", "12:30", "What is AI?", "Deep: a study", "#1 x", "Deep ", "null", "[x", "- a", '"q"', "a, b"]
    options = [word for prefix in typed for word in ("--prefix", prefix)]
    assert generate(monkeypatch, "small", *options, "-n", "1", "--max-tokens", "2", "--json") == 0
    texts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prefix"] for row in texts] == typed
    assert all(row["text"].startswith(row["prefix"]) for row in texts)
