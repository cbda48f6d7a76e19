"""Downloads of OpenAI's models from a local hub, with the hub's real client, and their conversion."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from servers.hub import serving
from titlesmith import models
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import FetchError, RequestError
from titlesmith.experiment import Experiment, find
from titlesmith.models import catalogue, download, gpt2_checkpoint
from titlesmith.pipeline import chain
from titlesmith.runs import Run, digest

TINY = {"n_vocab": 300, "n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def repositories(tmp_path_factory):
    """A folder of repositories, with a tiny model in place of OpenAI's 124M, as the transformers library stores it."""
    folder = tmp_path_factory.mktemp("hub")
    repository = folder / catalogue.PUBLISHED["124M"][0]
    repository.mkdir(parents=True)
    Tokenizer.learn([f"word{i} word{i}" for i in range(100)], 300).save_gpt2(repository)
    for theirs, ours in gpt2_checkpoint.VOCABULARY.items():
        (repository / ours).rename(repository / theirs)
    random = np.random.default_rng(1)
    weights = {
        gpt2_checkpoint.parameter_name(name): random.normal(size=shape).astype(np.float32).squeeze()
        for name, shape in models.shapes(TINY).items()
    }
    weights["h.0.attn.bias"] = np.tril(np.ones((1, 1, 64, 64), np.float32))  # the hub's file has masks too
    save_file(weights, repository / WEIGHTS)
    return folder


@pytest.fixture
def hub(repositories, project, monkeypatch, tmp_path):
    """A server of the tiny model under the name 124M."""
    monkeypatch.setitem(models.GPT2, "124M", TINY)
    repository = repositories / catalogue.PUBLISHED["124M"][0]
    monkeypatch.setattr(download, "WEIGHTS_SHA256", {"124M": digest(repository / WEIGHTS)})
    with serving(repositories) as server:
        monkeypatch.setenv(download.ENDPOINT_VARIABLE, server.url)
        yield server


@pytest.fixture
def folder(project):
    return project / "models" / "124M"


def script(hub, *lines):
    """A program for another process that sees the tiny model."""
    return "\n".join([
        "from titlesmith import cli, models",
        "from titlesmith.models import download",
        f"models.GPT2['124M'] = {TINY}",
        f"download.WEIGHTS_SHA256 = {download.WEIGHTS_SHA256}",
        *lines,
    ])  # fmt: skip


def test_a_model_is_downloaded_and_converted(hub, folder, repositories):
    assert models.fetch("124M") == folder == models.folder("124M")
    weights, hyperparameters = gpt2_checkpoint.read(folder)
    stored = load_file(repositories / catalogue.PUBLISHED["124M"][0] / WEIGHTS)
    assert hyperparameters == TINY and {n: list(v.shape) for n, v in weights.items()} == models.shapes(TINY)
    for name, value in weights.items():
        np.testing.assert_array_equal(value.squeeze(), stored[gpt2_checkpoint.parameter_name(name)])
    assert sorted(path.name for path in folder.parent.iterdir()) == [".124M.lock", "124M"]
    count = len(hub.requests)
    models.fetch("124M")
    assert len(hub.requests) == count, "a model that is here is not downloaded again"


def test_distilgpt2_is_downloaded_and_converted(hub, project, repositories, monkeypatch):
    """Its tensors have the prefix ``transformer.``."""
    original, repository = (repositories / catalogue.PUBLISHED[name][0] for name in ("124M", "82M"))
    repository.mkdir(parents=True)
    for file in gpt2_checkpoint.VOCABULARY:
        shutil.copyfile(original / file, repository / file)
    weights = load_file(original / WEIGHTS)
    save_file({f"transformer.{name}": value for name, value in weights.items()}, repository / WEIGHTS)
    monkeypatch.setitem(models.GPT2, "82M", TINY)
    monkeypatch.setattr(download, "WEIGHTS_SHA256", {"82M": digest(repository / WEIGHTS)})
    folder = models.fetch("82M")
    assert folder == project / "models" / "82M" == models.folder("82M")
    wte = gpt2_checkpoint.read(folder)[0]["model/wte"]
    np.testing.assert_array_equal(wte, weights["wte.weight"])


def test_gpt_2_simple_loads_a_downloaded_model(hub, folder, project, monkeypatch):
    import gpt_2_simple
    import tensorflow as tf

    models.fetch("124M")
    monkeypatch.chdir(project)
    with tf.Graph().as_default():
        session = gpt_2_simple.start_tf_sess()
        gpt_2_simple.load_gpt2(session, model_name="124M")
        (variable,) = [v for v in tf.compat.v1.global_variables() if v.op.name == "model/wte"]
        wte = session.run(variable)
        session.close()
    np.testing.assert_array_equal(wte, gpt2_checkpoint.read(folder)[0]["model/wte"])


@pytest.mark.parametrize("name", ["", "scratch", "hf:scratch"])
def test_models_with_random_weights_need_no_download(project, name):
    assert models.fetch(name) is None and not (project / "models").exists()


def test_a_download_resumes_where_the_connection_broke(hub, folder, repositories, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)  # else nothing of a small file is kept
    hub.faults[WEIGHTS] = "cut once"
    models.fetch("124M")
    first, rest = hub.ranges(WEIGHTS)
    size = (repositories / catalogue.PUBLISHED["124M"][0] / WEIGHTS).stat().st_size
    assert first == "" and size // 2 < int(rest.removeprefix("bytes=").rstrip("-")) < size
    assert models.folder("124M") == folder


def test_complete_files_are_not_downloaded_again_after_a_failure(hub, folder):
    hub.faults[WEIGHTS] = "missing"
    with pytest.raises(FetchError, match=r"cannot be downloaded.*model\.safetensors"):
        models.fetch("124M")
    with pytest.raises(RequestError, match="lacks"):
        models.folder("124M")
    hub.faults.clear()
    hub.requests.clear()
    assert models.fetch("124M") == folder
    assert hub.ranges(WEIGHTS) == [""] and not hub.ranges("vocab.json")


@pytest.mark.parametrize("name", [WEIGHTS, "vocab.json"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_wrong_byte_is_found_and_the_next_download_is_right(hub, folder, monkeypatch, name, pinned):
    if not pinned:  # the hub's own SHA-256 of the file
        monkeypatch.setattr(download, "WEIGHTS_SHA256", {})
    hub.faults[name] = "wrong byte"
    with pytest.raises(FetchError, match=f"{name}: its SHA-256 is not .* downloads it again"):
        models.fetch("124M")
    assert not folder.exists()
    hub.faults.clear()
    assert models.fetch("124M") == folder


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("missing", FetchError, "cannot be downloaded .*vocab.json"),
        ("gated", RequestError, "It is gated: accept its terms on its page on the hub, and set HF_TOKEN"),
        ("nowhere", FetchError, "cannot be downloaded.*TITLESMITH_MODELS.*mirror"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(hub, folder, monkeypatch, fault, error, words):
    if fault == "missing":
        hub.faults["vocab.json"] = fault
    hub.gated = fault == "gated"
    if fault == "nowhere":
        monkeypatch.setenv(download.ENDPOINT_VARIABLE, "http://127.0.0.1:9")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the hub client's attempts
    with pytest.raises(error, match=words):
        models.fetch("124M")
    assert not folder.exists()


def test_a_killed_download_leaves_no_model_and_resumes(hub, folder):
    hub.faults[WEIGHTS] = "cut"
    command = [sys.executable, "-c", script(hub, "models.fetch('124M')")]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not hub.ranges(WEIGHTS):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(RequestError, match="lacks"):
        models.folder("124M")
    hub.faults.clear()
    assert models.fetch("124M") == folder


def test_a_folder_made_by_gpt_2_simple_is_used_unchanged(hub, folder):
    models.fetch("124M")
    (folder / "model.ckpt.meta").write_bytes(b"x")  # which gpt_2_simple.download_gpt2 writes too
    hub.requests.clear()
    assert models.fetch("124M") == folder and not hub.requests


def test_a_second_process_waits_for_the_first(hub, folder):
    command = [sys.executable, "-c", script(hub, "models.fetch('124M')")]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(hub.ranges(WEIGHTS)) == 1


def test_a_run_downloads_the_model_that_it_needs(hub, folder, archive):
    settings = (f"harvest.path={archive}", "finetune.block_size=32", "generate.max_tokens=24")
    experiment = Experiment.read(find("gpt2-titles"), settings)
    chain(experiment, "r", until="harvest", echo=lambda line: None)
    assert not folder.exists(), "no stage has needed it yet"
    chain(experiment, "r", until="corpus", echo=lambda line: None)
    assert Tokenizer.load(Run("r") / "corpus").vocabulary == Tokenizer.load(folder).vocabulary


def test_the_command_lists_models_and_downloads_one(hub, folder):
    def command(*words):
        return subprocess.run([sys.executable, "-c", script(hub, "cli.main()"), *words], capture_output=True, text=True)

    done = command("models", "get", "124M")
    assert done.returncode == 0 and str(folder) in done.stdout, done.stderr
    assert any(line.startswith("124M") and line.endswith("yes") for line in command("models").stdout.splitlines())
    wrong = command("models", "get", "123M")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
