import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tiny import defaults, made, quick
from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.errors import RequestError, RunError
from titlesmith.export import export
from titlesmith.generate import GenerationSettings, backend_for, open_backend
from titlesmith.generate.source import open_adapter_source
from titlesmith.models import hub
from titlesmith.runs import Run
from titlesmith.runs.mirror import MARKER

GPT2 = {"n_ctx": 256, "n_embd": 32, "n_head": 2, "n_layer": 1}
EVEN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
TEXTS = ["Neural", "", "Neural music of speech", "é <|endoftext|> </s> 音"]


def agrees(run: Run, folder) -> None:
    """Whether transformers alone reads, predicts and writes from a folder what titlesmith does from the run."""
    import torch
    from transformers import GenerationConfig, pipeline, set_seed

    corpus, engine = Corpus(run), backend_for(engines.load_engine(run))
    write = pipeline("text-generation", str(folder))
    texts = TEXTS[: -1 if corpus.template.chat else None]  # a chat template needs special tokens in texts
    for text in texts:
        assert write.tokenizer(text)["input_ids"] == corpus.layout.prompt_ids(text)
        assert write.tokenizer(text, "A study")["input_ids"] == [
            *corpus.layout.prompt_ids(text), *corpus.tokenizer.encode("A study")
        ]  # fmt: skip
        assert write.tokenizer(text, add_special_tokens=False)["input_ids"] == corpus.tokenizer.encode(text)
    prompts = [corpus.layout.prompt_ids(text) for text in texts]
    for prompt, own in zip(prompts, engine.next_token_logprobs(prompts), strict=True):
        with torch.no_grad():
            logits = write.model(torch.tensor([prompt])).logits[0, -1]
        found = torch.log_softmax(logits.float(), -1)[: len(corpus.tokenizer)].numpy()
        assert np.allclose(found - found[0], own - own[0], atol=1e-4)
    greedy = GenerationSettings(count=1, top_k=1, max_tokens=12)
    for prompt, (draw,) in zip(texts, engine.generate(prompts, greedy), strict=True):
        (row,) = write(prompt, do_sample=False, return_tensors=True)
        ids = row["generated_token_ids"][len(corpus.layout.prompt_ids(prompt)) :]
        assert list(ids) == [*draw.ids, *[corpus.tokenizer.eos_id] * draw.finished]
    settings, found = run.record("generate")["settings"], []
    sampling = {key: settings[key] for key in ("temperature", "top_k", "top_p")}
    sampling |= {"max_new_tokens": settings["max_tokens"], "eos_token_id": corpus.tokenizer.eos_id, "do_sample": True}
    for more in ({}, {"generation_config": GenerationConfig(**sampling)}):
        set_seed(1)
        found.append([row["generated_text"] for row in write("Neural", num_return_sequences=5, **more)])
    assert found[0] == found[1] and len(set(found[0])) > 1, "the run's settings are those of the folder"
    batch = write(["Neural", "Neural music of speech"], batch_size=2, do_sample=False)
    assert batch[0] == write("Neural", do_sample=False)


@pytest.fixture
def offline(project, monkeypatch):
    """A project without a network, in which unpickling kills, and GPT-2 generates in float32."""
    monkeypatch.setattr("titlesmith.generate.ctranslate2.COMPUTE_TYPE", "float32")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def unpickled(*_, **__):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "load", unpickled)
    monkeypatch.setattr(pickle, "loads", unpickled)
    return project


@pytest.mark.parametrize(
    ("kind", "vocabulary", "template", "settings"),
    [
        ("llama", "sentencepiece", "abstract-to-title", {"lora_rank": 2}),
        ("gpt2", "byte_level", "title", {"delimiters": "text"}),
        ("qwen2", "byte_level", "chat", {"lora_rank": 2, "sampling": EVEN}),
        ("gpt_neox", "byte_level", "alpaca", {"lowercase": True}),
    ],
)
def test_models_of_the_library_are_exported_to_it(offline, kind, vocabulary, template, settings):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = quick("r", made(offline, kind, vocabulary), template, **settings)
    folder = export(run, "hf")
    agrees(run, folder)
    assert (folder / "model.safetensors").is_file() and not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))
    assert (folder / "adapter").is_dir() is bool(settings.get("lora_rank"))
    if settings.get("lora_rank"):
        base = AutoModelForCausalLM.from_pretrained(offline / "models" / kind)
        adapted = PeftModel.from_pretrained(base, folder, subfolder="adapter").merge_and_unload()
        merged = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for name, weight in adapted.state_dict().items():
            assert np.allclose(merged[name].numpy(), weight.numpy(), atol=1e-6), name
        assert open_adapter_source(folder / "adapter", f"hf:{kind}", named=template).open().context == 1024
    config = json.loads((folder / "generation_config.json").read_text())
    spare = range(len(Corpus(run).tokenizer), AutoModelForCausalLM.from_pretrained(folder).config.vocab_size)
    assert config.get("suppress_tokens") == (list(spare) or None), "ids without a token are never sampled"
    assert len({file.stat().st_mode for file in folder.rglob("*") if file.is_file()}) == 1, "who reads one reads all"
    for file in folder.rglob("*"):
        assert not file.is_file() or str(offline).encode() not in file.read_bytes(), f"{file} names a local path"


def test_adapters_are_merged_in_the_type_of_the_weights(offline):
    import torch
    from transformers import AutoModelForCausalLM

    base = offline / "models" / made(offline, "llama", "sentencepiece").removeprefix("hf:")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    run = quick("r", "hf:llama", lora_rank=2)
    model = AutoModelForCausalLM.from_pretrained(export(run, "hf"), dtype="auto")
    assert model.dtype == torch.bfloat16
    prompt = Corpus(run).layout.prompt_ids("Neural")
    with torch.no_grad():
        found = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1].float(), -1).numpy()
    assert np.allclose(found, open_backend(run).next_token_logprobs([prompt])[0], atol=0.1)
    assert "are rounded to bfloat16" in (run / "export" / "hf" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("settings", [{"delimiters": "text"}, {"template": "title-to-abstract", "too_long": "cut"}])
def test_a_gpt2_of_tensorflow_is_exported_to_it(offline, monkeypatch, settings):
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": GPT2})
    monkeypatch.setattr("titlesmith.train.kernels.compiled", lambda function: function)
    run = quick("r", "scratch", **settings)
    folder = export(run, "hf")
    agrees(run, folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"


def test_a_scratch_of_the_library_is_exported_to_it_and_its_program_runs(offline, monkeypatch):
    monkeypatch.setattr(hub, "SCRATCH", {"n_ctx": 512, "n_embd": 32, "n_head": 2, "n_layer": 2})
    run = quick("r", "hf:scratch", "abstract-to-title")
    folder = export(run, "hf", offline / "there")
    agrees(run, folder)
    program = (folder / "README.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_a_failed_export_keeps_the_older_one_and_a_new_export_keeps_other_files(offline, monkeypatch):
    run = quick("r", made(offline, "llama", "sentencepiece"))
    folder = export(run, "hf")
    agrees(run, folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr("titlesmith.export.huggingface.card", full)
        export(run, "hf")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert [file.name for file in folder.parent.iterdir()] == ["hf"]
    (folder / "notes.txt").write_text("mine")
    (folder / "old.safetensors").write_text("of an older export")
    marker = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(
        json.dumps(marker | {"files": [*marker["files"], "old.safetensors", "../../run.json"]})
    )
    # A beam search is exported as one
    run.update_stage("generate", settings=defaults("generate", beams=3, count=2, no_repeat_ngram=2, min_tokens=2))
    export(run, "hf")
    config = json.loads((folder / "generation_config.json").read_text())
    names = ("num_beams", "do_sample", "no_repeat_ngram_size", "min_new_tokens")
    assert [config[name] for name in names] == [3, False, 2, 2] and "temperature" not in config
    assert (folder / "notes.txt").read_text() == "mine" and not (folder / "old.safetensors").exists()
    assert (run / "run.json").is_file()
    with monkeypatch.context() as patch, pytest.raises(RunError, match="makes other tokens"):
        patch.setattr("titlesmith.corpus.layout.TokenLayout.prompt_ids", lambda self, prompt, prefix="": [1])
        export(run, "hf")
    with monkeypatch.context() as patch, pytest.raises(RequestError, match=r"need torch.*pip install .*torch"):
        patch.setattr(hub, "find_spec", lambda name: None)
        export(run, "hf")


def test_a_gpt2_is_exported_to_ctranslate2_on_the_command_line(offline, monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": GPT2})
    monkeypatch.setattr("titlesmith.train.kernels.compiled", lambda function: function)
    run = quick("r", "scratch")
    agrees(run, export(run, "hf"))
    command = [sys.executable, "-m", "titlesmith", "export", "r", "--to", "ctranslate2", "--out", "there"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "there" / "model.bin").is_file(), done.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(RequestError, match="titlesmith did not write it"):
        export(run, "ctranslate2", tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["mine.txt"]
    with pytest.raises(RunError):
        export(Run("nothing"), "ctranslate2")
    (run / "model" / "ctranslate2" / "model.bin").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"model\.bin is damaged"):
        export(run, "ctranslate2")
