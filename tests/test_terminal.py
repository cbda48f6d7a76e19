import io
import json
import os
import pickle
import shutil
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
        (["small", "--temperature", "0"], "generate.temperature: '0' is not allowed"),
        (["small", "--top-k", "many"], "generate.top_k: 'many' is not allowed"),
        (
            ["small", "--beams", "4", "-n", "5"],
            "generate.count: 5 texts of 4 beams: a beam search returns at most one text per beam. Lower count to 4",
        ),
        (
            ["small", "--title", "x"],
            "the prompt of run small needs nothing but a beginning (--prefix); given is title",
        ),
        (["small", "--abstract", "nowhere.txt"], "Invalid value for '--abstract': 'nowhere.txt'"),
        (["small", "--title", "bad\udcff"], r"'bad\xff' is not valid UTF-8"),
        (["small", "--field", "year"], "--field 'year': it needs the form key=value"),
        (
            ["small", "--prefix", "word " * 2000],
            "(10001 tokens) exceed the model's context of 256 tokens. Lower max_tokens, or shorten the",
        ),
        (["small", "--min-tokens", "30", "--max-tokens", "10"], "generate.min_tokens: 30 is more than max_tokens, 10"),
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
    terminal._check_fields(template("title-to-abstract"), {"title": "x"}, "r")
    terminal._check_fields(template("chatgentitle"), {"abstract": "x"}, "r")
    terminal._check_fields(template("chatgentitle"), {"abstract": "x", "instruction": "y"}, "r")
    for name, fields, message in [
        ("title-to-abstract", {"abstract": "x"}, "needs title; given is abstract. Set --title TEXT"),
        ("title-to-abstract", {"title": "x", "year": "2024"}, "given is title, year"),
        ("category-title-to-abstract", {"title": "x"}, r"needs category, title; given is title\. .* --field KEY=TEXT"),
    ]:
        with pytest.raises(RequestError, match=message):
            terminal._check_fields(template(name), fields, "r")


def test_an_abstract_comes_from_a_file_or_from_standard_input(finished, tmp_path, monkeypatch, capsys):
    written = []
    monkeypatch.setattr(terminal, "write", lambda source, given, prefixes, fields, as_json: written.append(fields))
    (tmp_path / "a.txt").write_text("Schön.\n", "utf-8")
    assert generate(monkeypatch, "small", "--abstract", str(tmp_path / "a.txt")) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grün.".encode())))
    assert generate(monkeypatch, "small", "--abstract", "-") == 0
    assert written == [{"abstract": "Schön. "}, {"abstract": "Grün."}]
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert generate(monkeypatch, "small", "--abstract", str(tmp_path / "a.txt")) == 2
    assert r"'\xff' is not valid UTF-8" in capsys.readouterr().err


SHORT = ["-n", "2", "--max-tokens", "8", "--json"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with tiny LLaMAs of several shapes, and an adapter for one of them as others publish theirs."""
    folder = tmp_path_factory.mktemp("models")
    made(folder, "llama", "sentencepiece")
    made(folder, "llama", "sentencepiece", "narrow", hidden_size=16)
    made(folder, "llama", "sentencepiece", "short", num_hidden_layers=1)
    adapter(folder)
    return folder


@pytest.fixture
def llama(project, models, monkeypatch):
    """A project with these models, and an abstract; no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(project)
    shutil.copytree(models, project, dirs_exist_ok=True)
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
        (["--template", "alpaca"], "--template and --quantize need an adapter"),
        (["none", "--base", "hf:llama"], "--base, --template and --quantize need an adapter"),
        (["--adapter", "nowhere"], "nowhere is not an adapter saved by peft"),
        (
            ["--adapter", "adapter"],
            "in adapter needs abstract; given is nothing. Set --title TEXT, --abstract FILE",
        ),
        (["--adapter", "adapter", "--title", "x"], "needs abstract; given is title, abstract"),
        (["--adapter", "adapter", "--base", "llama"], "--base 'llama': an adapter needs a model"),
        (["--adapter", "adapter", "--base", "hf:nobody/none"], "cannot be downloaded"),
        (["--adapter", "adapter", "--base", "hf:narrow"], "does not fit the model"),
        (["--adapter", "adapter", "--base", "hf:short"], "4 matrices are only in one of them"),
        (["--adapter", "adapter", "--template", "alpacca"], "there is no template 'alpacca'"),
        (["--adapter", "adapter", "--template", "chat"], "none"),
        (["--adapter", "adapter", "--held-out", "3"], "a run's corpus has held-out papers"),
        (["--adapter", "adapter", "--quantize", "2bit"], "'2bit' is not one of"),
        (["--adapter", "adapter", "--beams", "2", "-n", "3"], "3 texts of 2 beams"),
    ],
)
def test_an_unusable_adapter_is_an_error_with_a_remedy(llama, monkeypatch, capsys, arguments, message):
    abstract = [] if "given is nothing" in message else ["--abstract", "a.txt"]
    assert generate(monkeypatch, *arguments, *abstract) == (1 if "cannot be downloaded" in message else 2)
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
