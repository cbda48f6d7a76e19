"""The benchmarks measure what they say: tried small, in one process, because only the figures depend on processes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from conftest import ROOT, data
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate import GenerationSettings, backend_for
from titlesmith.train.gpt2 import GPT2Engine


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        if name != "train":  # benchmarks share functions of train.py, and tests/train is a package here
            patch.setitem(sys.modules, "train", load("train"))
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(monkeypatch):
    module = load("train")
    monkeypatch.setattr(module, "part", lambda name, *args: module.PARTS[name](*args))
    return module


def test_training_is_compared_with_stock_and_with_transformers(train, tmp_path, monkeypatch, capsys):
    data("arxiv/eess.AS.tsv.xz")
    data("gpt2-bpe/encoder.json")
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    answers = train.measure(Path(tmp_path), "small", 1, 1)
    ratios, absolute = train.compare(answers, "small")
    wanted = ["titles_per_second_ratio_to_stock", "tokens_per_second_ratio_to_transformers"]
    wanted += ["peak_memory_ratio_to_stock", "matmul_peak_share"]
    wanted += [f"{key}_{which}_vocabulary" for key in wanted for which in ("corpus", "full")]
    assert set(ratios) == {*wanted, "overhead_share", "loss_difference_to_transformers"}
    assert {key for key, value in ratios.items() if value is None} == (
        {key for key in ratios if "transformers" in key} if answers["skipped"] else set()
    )
    if not answers["skipped"]:
        assert ratios["loss_difference_to_transformers"] < 1e-4
    assert 29 < absolute["tokens_per_title_stock"] < 32, "text markers and all"
    assert 55 < absolute["titles_per_step"] < 65, "1,024 tokens of titles"
    assert absolute["flops_per_step"] < absolute["flops_per_step_full_vocabulary"]
    train.show(ratios, absolute, answers)
    assert "titles_per_second_ratio_to_stock" in capsys.readouterr().out


def test_overhead_is_counted_over_a_whole_run(train):
    spent = {"mean_loss": [3.0, 2.0], "save_weights": [1.0], "sample": [5.0, 0.5], "save_checkpoint": [4.0, 4.0]}
    spent["load_weights"] = [1.0]
    every = {"validate_every": 50, "sample_every": 25, "save_every": 0}
    expected = {"mean_loss": 21.0, "save_weights": 11.0, "sample": 14.5, "save_checkpoint": 4.0, "load_weights": 1.0}
    assert train.overhead(spent, every) == expected


def test_vocabularies_are_compared_behind_a_full_training(tmp_path, monkeypatch):
    data("arxiv/cs.CL.tsv.xz")
    data("gpt2-bpe/encoder.json")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    vocabulary = load("vocabulary")
    monkeypatch.setattr(vocabulary, "SIZE", {"n_vocab": 50257, "n_ctx": 128, "n_embd": 16, "n_head": 2, "n_layer": 1})
    for stage in ("harvest", "corpus", "finetune"):
        vocabulary.defaults(stage)
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    prepare, parts = GPT2Engine.prepare, []
    monkeypatch.setattr(
        GPT2Engine, "prepare", lambda self, *args: prepare(self, *args) or parts.append(self._sampled is not None)
    )
    found = vocabulary.compare(tmp_path, 8, [1])
    assert parts == [False, False, True]
    assert [row["vocabulary"] for row in found["runs"]] == ["full", "corpus"]
    assert found["test_perplexity_ratio_corpus_to_full"] == pytest.approx(1, abs=0.05)


def test_generation_is_compared_with_stock_transformers_and_the_export(tmp_path, monkeypatch, capsys):
    tf.compat.v1.reset_default_graph()  # stock gpt-2-simple has one graph a process, and a test before may have used it
    data("arxiv/eess.AS.tsv.xz")
    data("gpt2-bpe/encoder.json")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    generate = load("generate")
    monkeypatch.setattr(generate, "part", lambda name, *args: generate.PARTS[name](*args))
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    answers = generate.measure(Path(tmp_path), "small", 10, 2, 1)
    ratios, absolute = generate.compare(answers)
    assert set(ratios) == set(generate.BARS)
    skipped = {key for key, value in ratios.items() if value is None}
    assert skipped == {f"titles_per_second_ratio_to_{name}" for name in answers["skipped"]}
    assert absolute["new_tokens_per_title_stock"] == generate.LIMIT + 6 > absolute["tokens_of_999_in_1000_titles"]
    for name in {"titlesmith", "transformers"} - set(answers["skipped"]):
        assert absolute[f"new_tokens_per_title{generate.SUFFIXES[name]}"] < 0.7 * generate.LIMIT, "texts end"
    assert absolute["titles_per_second_ratio_to_stock_equal_length"] < ratios["titles_per_second_ratio_to_stock"]
    assert ratios["int8_perplexity_ratio"] == pytest.approx(1, abs=0.01)
    generate.show(ratios, absolute, answers)
    assert "titles_per_second_ratio_to_stock" in capsys.readouterr().out


def test_training_adapters_is_compared_with_plain_loops_of_peft(tmp_path, monkeypatch):
    data("arxiv/eess.AS.tsv.xz")
    pytest.importorskip("peft")
    import tiny

    tiny.made(tmp_path, "llama")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("TITLESMITH_ROOT", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"):  # which the benchmark sets
        monkeypatch.setenv(name, "")
    measured = load("pretrained").measure(f"hf:{tmp_path}/models/llama", 1, 1)
    for pair in ("to_peft_packed", "to_peft_padded", "corpus_to_full_vocabulary"):
        assert measured[f"tokens_per_second_ratio_{pair}"] > 0 and measured[f"peak_memory_ratio_{pair}"] > 0


def test_the_page_of_expectations_has_the_figures_and_texts_of_a_run(finished, tmp_path, monkeypatch):
    expect = load("expect")
    monkeypatch.setattr(sys, "argv", ["expect.py", finished.name, "--book", str(tmp_path)])
    for _ in range(2):  # again, it replaces its row
        expect.main()
    (row,) = json.loads((tmp_path / "expect.json").read_text("utf-8"))
    assert row["model"] == "scratch" and row["test_perplexity"] == finished.metrics["perplexity"]["test"]
    page = (tmp_path / "expect.md").read_text("utf-8")
    assert f"| {row['steps']} |" in page and page.count("<li>") == len(row["sample"]) > 0
    page = expect.page([row | {"sample": ["<script>"]}])
    assert "<li>&lt;script&gt;</li>" in page


def test_gpu_measures_everything_on_the_processor_too(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    gpu = load("gpu")
    monkeypatch.setattr(gpu, "part", lambda name, *args: gpu.PARTS[name](*args))
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    answers = gpu.measure(Path(tmp_path), 4, 2, True)
    found = gpu.compare(answers)
    assert set(gpu.BARS) <= found.keys() and all(value is not None for value in found.values())
    shape = gpu.TINY_GPT2
    block = 12 * shape["n_embd"] ** 2 + 13 * shape["n_embd"]  # matrices, biases and norms
    products = shape["n_layer"] * block + 2 * shape["n_embd"] + shape["vocab_size"] * shape["n_embd"]
    attention = 12 * shape["n_layer"] * shape["n_embd"] * shape["n_positions"]
    assert found["flops_per_token"] == 6 * products + attention
    assert found["loss"] == pytest.approx(found["loss_trainer"], rel=0.05), "both learn the same rows"
    gpu.show(found, answers, 4)
    assert "matmul_peak_share" in capsys.readouterr().out


def test_gpu_says_that_there_is_none(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="2"):
        load("gpu").main()
    assert "no GPU" in capsys.readouterr().err


def test_gpu_needs_no_more_than_the_engine_s_libraries(tmp_path):
    pytest.importorskip("peft")
    code = (
        "import runpy, sys\n"
        "for name in ('tensorflow', 'gpt_2_simple', 'polars', 'tensorboardX', 'pylatexenc', 'requests', 'papermill'):\n"
        "    sys.modules[name] = None  # importing it fails\n"
        f"runpy.run_path({str(ROOT / 'benchmarks' / 'gpu.py')!r}, run_name='__main__')"
    )
    asked = ["--part", "train", "--folder", str(tmp_path), "--rows", "2", "--steps", "1", "--tiny"]
    environment = os.environ | {"TITLESMITH_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run([sys.executable, "-c", code, *asked], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["tokens_per_second"] > 0


def test_texts_of_random_weights_end_where_titles_end():
    ending = load("ending")
    lengths = np.random.default_rng(1).normal(16, 5, 2000).astype(int).clip(3, 45)
    assert ending.shares(lengths, 10)[:3].tolist() == [0, 0, 0]
    assert ending.shares(np.array([2, 4] * 50), 9).tolist() == [0, 0, 0.5, 0, 1, 0, 0, 0, 0]
    tokenizer = Tokenizer.learn(["speech and sound"] * 3, 270)
    shape = {"n_vocab": len(tokenizer), "n_ctx": 64, "n_embd": 256, "n_head": 2, "n_layer": 2}
    engine, settings = GPT2Engine(tokenizer, shape), GenerationSettings(count=400, max_tokens=48)
    generator = np.random.default_rng(1)
    for v in engine._variables:
        v.load(generator.normal(v.op.name.endswith("/g"), 0.05, v.shape).astype(np.float32), engine._session)
    ending.teach(engine, lengths, settings)
    (completions,) = backend_for(engine).generate([[tokenizer.eos_id]], settings)
    found = [len(completion.ids) for completion in completions]
    assert np.mean(found) == pytest.approx(lengths.mean(), rel=0.1)
    assert np.std(found) == pytest.approx(lengths.std(), rel=0.4)


def test_clean_counts_texts_over_ordinary_and_hostile_prefixes(finished, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = load("clean")
    assert len(set(module.HOSTILE)) == len(module.HOSTILE) == 20
    module.PREFIXES, module.HOSTILE = ["", "Neural"], ["<|endoftext|>", "\n"]
    found = module.clean("small", 20)
    assert found["prefix_kept_rate"] == found["hostile_prefix_kept_rate"] == 1
    assert (found["texts"], found["hostile_texts"]) == (20, 4)
    assert 0 <= found["artifact_rate"] <= 1 and 0 <= found["hostile_artifact_rate"] <= 1
