import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.gpt2_store import serving
from titlesmith import models
from titlesmith.corpus.tokens import Tokenizer
from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.experiment import Experiment, find
from titlesmith.models import download, machine
from titlesmith.models.catalogue import OPENAI
from titlesmith.pipeline import chain
from titlesmith.runs.record import Run

TINY = {"n_vocab": 300, "n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
DATA = "model.ckpt.data-00000-of-00001"


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A store's folder, with a tiny model in place of OpenAI's 124M, written by TensorFlow as they wrote theirs."""
    tf = machine.tensorflow()
    folder = tmp_path_factory.mktemp("store") / "124M"
    folder.mkdir()
    tokenizer = Tokenizer.learn([f"word{i} word{i}" for i in range(100)], 300)
    assert len(tokenizer) == TINY["n_vocab"]
    tokenizer.save(folder)
    (folder / "hparams.json").write_text(json.dumps(TINY))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, shape in models.shapes(TINY).items():
            tf.compat.v1.get_variable(name, shape)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(save_relative_paths=True).save(session, str(folder / "model.ckpt"))
    assert {p.name for p in folder.iterdir()} == set(OPENAI)
    return folder


@pytest.fixture
def store(original, project, monkeypatch, tmp_path):
    """A server of the tiny model, which passes for 124M."""
    shutil.copytree(original, tmp_path / "served" / "124M")
    monkeypatch.setitem(models.GPT2, "124M", TINY)
    monkeypatch.setattr(download, "SHA256", {f: download.digest(original / f) for f in download.SHA256})
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with serving(tmp_path / "served") as server:
        monkeypatch.setenv(download.VARIABLE, server.url)
        yield server


@pytest.fixture
def here(project):
    return project / "models" / "124M"


def same(folder, original):
    return all((folder / name).read_bytes() == (original / name).read_bytes() for name in OPENAI)


def partials(folder):
    return [p for p in folder.iterdir() if p.name.endswith(".partial")]


@pytest.mark.parametrize(
    ("name", "count"),
    [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080), ("1558M", 1_557_611_200)],
)
def test_openais_models_have_as_many_parameters_as_published(name, count):
    assert models.parameters(models.GPT2[name]) == count


def test_openais_models_are_known_before_they_are_here(project):
    assert models.context("774M") == 1024 and models.hyperparameters("774M", 0)["n_layer"] == 36
    with pytest.raises(RequestError, match="nearby") as error:
        models.hyperparameters("nearby", 0)
    assert "scratch, 124M" in str(error.value)


def test_a_missing_model_says_what_to_put_where(project):
    with pytest.raises(RequestError) as error:
        models.folder("124M")
    for words in (str(project / "models" / "124M"), "titlesmith models get 124M", *OPENAI):
        assert words in str(error.value)


def test_the_whole_model_is_downloaded_and_becomes_one(store, original, here):
    assert download.get("124M") == here == models.folder("124M")
    assert same(here, original) and not partials(here)
    assert models.context("124M") == TINY["n_ctx"]
    sums = (here / download.SUMS).read_text()
    assert hashlib.sha256((original / DATA).read_bytes()).hexdigest() in sums
    assert subprocess.run(["sha256sum", "-c", download.SUMS], cwd=here, stdout=subprocess.DEVNULL).returncode == 0
    asked = len(store.requests)
    download.fetch("124M")
    download.get("124M")
    assert len(store.requests) == asked, "what is here is not downloaded again"


def test_fetch_leaves_other_names_alone(project):
    download.fetch("scratch")
    download.fetch("models/own")
    assert not (project / "models").exists()


def test_a_name_without_a_download_is_refused(project):
    with pytest.raises(RequestError, match="124M, 355M"):
        download.get("125M")


@pytest.mark.parametrize("tags", [True, False])
def test_a_cut_is_resumed_at_once(store, original, here, tags):
    store.tags, store.faults[DATA] = tags, "cut"
    download.get("124M")
    assert same(here, original)
    cut = (original / DATA).stat().st_size * 6 // 10
    assert store.gets(DATA) == [("", 200), (f"bytes={cut}-", 206)]


def test_a_broken_download_is_resumed_by_the_same_command(store, original, here):
    store.faults[DATA] = "dead"
    with pytest.raises(FetchError, match=r"broke off 5 times at .* bytes .*the same command goes on"):
        download.get("124M")
    (part,) = partials(here)
    cut = (original / DATA).stat().st_size * 6 // 10
    assert part.stat().st_size == cut
    with pytest.raises(RequestError, match=f"lacks {DATA}|lacks checkpoint"):
        models.folder("124M")
    store.faults.clear()
    store.requests.clear()
    download.get("124M")
    assert store.gets(DATA) == [(f"bytes={cut}-", 206)] and store.gets("vocab.bpe") == []
    assert same(here, original)


def test_a_server_that_ignores_ranges_sends_all_again(store, original, here):
    store.ranges, store.faults[DATA] = False, "cut"
    download.get("124M")
    assert [status for _, status in store.gets(DATA)] == [200, 200]
    assert same(here, original)


def test_a_part_of_another_version_is_not_gone_on_from(store, original, here):
    store.faults[DATA] = "dead"
    with pytest.raises(FetchError):
        download.get("124M")
    store.faults.clear()
    store.requests.clear()
    tail = store.folder / "124M" / "model.ckpt.meta"
    tail.write_bytes(tail.read_bytes() + b"x")
    data = store.folder / "124M" / DATA
    data.write_bytes(data.read_bytes() + b"x")  # as long as TensorFlow reads, and another version
    (here / "model.ckpt.meta").unlink()
    download.get("124M")
    assert store.gets(DATA) == [("", 200)]
    assert (here / DATA).read_bytes() == data.read_bytes() and not partials(here)


def test_a_missing_file_is_said_before_anything_is_downloaded(store, here):
    store.faults[DATA] = "missing"
    with pytest.raises(FetchError, match=rf"{DATA}: the server answered 404"):
        download.get("124M")
    assert not store.gets("encoder.json") and not here.exists()


def test_a_web_page_is_no_model(store, here):
    store.faults["encoder.json"] = "page"
    with pytest.raises(FetchError, match=r"a web page\. Is this a network that asks to log in"):
        download.get("124M")
    assert not here.exists()


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe", "model.ckpt.index", DATA])
def test_a_wrong_byte_is_found_and_the_next_download_is_right(store, original, here, name):
    store.faults[name] = "wrong byte"
    with pytest.raises(FetchError, match=f"{name}.*the same command fetches it again"):
        download.get("124M")
    assert not (here / name).exists()
    with pytest.raises(RequestError, match="lacks"):
        models.folder("124M")
    store.faults.clear()
    download.get("124M")
    assert same(here, original)


def test_a_wrong_byte_is_found_by_the_servers_md5(store, here):
    store.md5, store.faults["model.ckpt.meta"] = True, "wrong byte"
    with pytest.raises(FetchError, match=r"model\.ckpt\.meta is not what it should be: its md5"):
        download.get("124M")


def test_another_models_files_are_refused(store, here, monkeypatch):
    monkeypatch.setitem(models.GPT2, "124M", TINY | {"n_layer": 3})
    with pytest.raises(FetchError, match=r"hparams\.json: it says .*'n_layer': 2.*the model has"):
        download.get("124M")


def test_a_checkpoint_that_does_not_fit_its_hyperparameters_is_refused(store, here, monkeypatch):
    wider = TINY | {"n_embd": 64}
    monkeypatch.setitem(models.GPT2, "124M", wider)
    (store.folder / "124M" / "hparams.json").write_text(json.dumps(wider))
    with pytest.raises(FetchError, match=r"model/wpe is \[64, 32\], hparams.json asks for \[64, 64\]"):
        download.get("124M")


def test_a_vocabulary_of_another_size_is_refused(store, here, monkeypatch):
    monkeypatch.setattr(download, "SHA256", {})
    path = store.folder / "124M" / "encoder.json"
    path.write_text(json.dumps(dict(list(json.loads(path.read_text()).items())[:-1])))
    with pytest.raises(FetchError, match=r"encoder\.json: it has 299 entries, the model has 300"):
        download.get("124M")


def test_without_a_network_it_says_what_to_put_where(project, monkeypatch):
    monkeypatch.setenv(download.VARIABLE, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(FetchError, match="cannot be reached") as error:
        download.get("124M")
    for words in ("titlesmith models get 124M", str(project / "models" / "124M"), download.VARIABLE, *OPENAI):
        assert words in str(error.value)


def test_a_disk_too_small_is_said_before_anything_is_downloaded(store, here):
    store.faults[DATA] = "huge"
    with pytest.raises(RunError, match=r"needs 10,000,.* bytes more there and .* are free"):
        download.get("124M")
    assert not here.exists()


def test_a_disk_that_fills_up_keeps_what_is_there(store, original, here):
    store.faults[DATA] = "dead"
    with pytest.raises(FetchError):
        download.get("124M")
    store.faults.clear()
    (part,) = partials(here)
    part.unlink()
    part.symlink_to("/dev/full")  # where every write fails, as on a full disk
    with pytest.raises(RunError, match=r"No space left on device\. What was downloaded is kept"):
        download.get("124M")
    part.unlink()
    download.get("124M")
    assert same(here, original)


def test_a_download_that_is_killed_is_no_model_and_goes_on(store, original, here, project):
    data = store.folder / "124M" / DATA
    store.faults[DATA] = "slow"
    script = "from titlesmith.models import download; download.SHA256.clear(); download.get('124M')"
    command = [sys.executable, "-c", script]
    other = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (here.is_dir() and any(p.stat().st_size for p in partials(here) if DATA in p.name)):
        assert time.monotonic() < until and other.poll() is None
        time.sleep(0.02)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with pytest.raises(RequestError, match="lacks"):
        models.folder("124M")
    store.faults.clear()
    store.requests.clear()
    download.get("124M")
    ((asked, status),) = store.gets(DATA)
    assert status == 206 and 0 < int(asked.removeprefix("bytes=").rstrip("-")) < data.stat().st_size
    assert same(here, original)


def test_a_file_that_changed_later_is_found(store, here):
    download.get("124M")
    (here / "vocab.bpe").write_text("#version: 0.2\n")
    with pytest.raises(RunError, match=r"vocab\.bpe is not what was downloaded.*Remove it"):
        download.get("124M")
    (here / "vocab.bpe").unlink()
    assert download.get("124M") == here
    assert store.gets("vocab.bpe") == [("", 200)] * 2


def test_a_model_that_was_put_here_by_hand_is_checked_and_kept(store, original, here):
    shutil.copytree(original, here)
    damaged = bytearray((here / DATA).read_bytes())
    damaged[1000] ^= 1
    (here / DATA).write_bytes(damaged)
    with pytest.raises(FetchError, match=r"is damaged.*Remove it, and"):
        download.get("124M")
    assert (here / DATA).read_bytes() == damaged, "only what was downloaded is removed"
    shutil.copy(original / DATA, here)
    assert download.get("124M") == here and store.requests == []


def test_damage_in_a_file_that_was_missing_leaves_no_model(store, original, here):
    shutil.copytree(original, here)
    (here / DATA).unlink()
    store.faults[DATA] = "wrong byte"
    with pytest.raises(FetchError, match=r"is damaged.*It was removed"):
        download.get("124M")
    with pytest.raises(RequestError, match="lacks"):
        models.folder("124M")


def test_a_second_process_waits_for_the_first_and_downloads_nothing(store, original, here):
    script = "from titlesmith import models; from titlesmith.models import download as d\n"
    script += f"models.GPT2['124M'] = {TINY}; d.SHA256.clear(); d.fetch('124M')"
    both = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert store.gets(DATA) == [("", 200)] and same(here, original)


def test_a_checkpoint_cut_short_by_another_tool_is_no_model(store, original, here):
    shutil.copytree(original, here)
    (here / DATA).write_bytes((here / DATA).read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"lacks model\.ckpt\.data-\* \(.* bytes of .* are here\)"):
        models.folder("124M")
    with pytest.raises(RunError, match=rf"{DATA} has .* bytes, .* Remove it"):
        download.get("124M")
    (here / DATA).unlink()
    download.get("124M")
    assert same(here, original)


@pytest.mark.parametrize("content", ["{", "[]", '{"n_vocab": 300}'])
def test_damaged_hyperparameters_are_named(original, project, content):
    shutil.copytree(original, project / "models" / "own")
    (project / "models" / "own" / "hparams.json").write_text(content)
    with pytest.raises(RequestError, match=r"hparams\.json is damaged.*n_layer"):
        models.folder("models/own")


def test_the_catalogue_has_folders_too(original, project):
    shutil.copytree(original, project / "models" / "own")
    assert models.names() == ["scratch", "124M", "355M", "774M", "1558M", "models/own", "hf:scratch"]
    assert models.hyperparameters("models/own", 0) == TINY


def experiment(archive, *overrides):
    given = (f"harvest.path={archive}", "finetune.block_size=32", "generate.max_tokens=24", *overrides)
    return Experiment.read(find("gpt2-titles"), given)


def test_a_run_fetches_the_model_that_it_needs(store, original, here, archive):
    asked = experiment(archive)
    chain(asked, "r", until="harvest", echo=lambda line: None)
    assert not here.exists(), "no stage has needed it yet"
    chain(asked, "r", until="corpus", echo=lambda line: None)
    assert same(here, original)
    assert (Run("r") / "corpus" / "encoder.json").read_bytes() == (original / "encoder.json").read_bytes()


def test_a_run_without_the_model_and_a_network_does_nothing(store, project, archive):
    store.faults["hparams.json"] = "missing"
    with pytest.raises(FetchError, match="404"):
        chain(experiment(archive), "r", echo=lambda line: None)
    assert not (project / "runs").exists()


def test_the_command_lists_models_and_gets_one(store, here):
    def command(*words):
        script = "from titlesmith import cli, models; from titlesmith.models import download as d\n"
        script += f"models.GPT2['124M'] = {TINY}; d.SHA256.clear(); cli.main()"
        return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)

    listed = command("models").stdout
    assert "no: titlesmith models get 124M" in listed and re.search(r"1558M +1,557,611,200 +6,230 MB", listed)
    done = command("models", "get", "124M")
    assert done.returncode == 0 and f"124M is here, and whole: {here}" in done.stdout
    assert "100%" in done.stderr
    assert any(line.startswith("124M") and line.endswith("yes") for line in command("models").stdout.splitlines())
    refused = command("models", "get", "123M")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr


sizes = st.integers(1, 64), st.integers(8, 1024)


@given(*sizes, st.booleans(), st.booleans(), st.sampled_from(sorted(models.GPT2)))
def test_more_rows_longer_rows_and_wider_operands_take_more_memory(rows, block, bf16, checkpointing, name):
    def takes(rows, block, bf16=bf16, checkpointing=checkpointing, name=name):
        return models.memory(models.GPT2[name], rows, block, bf16=bf16, checkpointing=checkpointing)

    assert takes(rows, block) <= min(takes(rows + 1, block), takes(rows, block + 1))
    assert takes(rows, block, bf16=True) < min(takes(rows + 1, block, bf16=True), takes(rows, block + 1, bf16=True))
    assert takes(rows, block, bf16=True) < takes(rows, block, bf16=False)
    assert takes(rows, block, checkpointing=True) <= takes(rows, block, checkpointing=False)
    for smaller, larger in itertools.pairwise(models.GPT2):
        assert takes(rows, block, name=smaller) < takes(rows, block, name=larger)


def test_memory_is_what_was_measured():
    """Peaks in GB on two CPU cores; `memory` says how they came about."""
    made_of = models.GPT2["124M"]
    corpus, shallow = made_of | {"n_vocab": 4608}, made_of | {"n_layer": 2}
    for peak, takes in (
        (4.80, models.memory(made_of, 1, 64, bf16=True)),
        (5.60, models.memory(made_of, 1, 64)),
        (5.90, models.memory(made_of, 8, 128)),
        (5.48, models.memory(made_of, 8, 128, bf16=True)),
        (7.08, models.memory(made_of, 4, 512, bf16=True)),
        (6.66, models.memory(made_of, 4, 512, checkpointing=True)),
        (6.57, models.memory(made_of, 16, 128, bf16=True)),
        (7.09, models.memory(made_of, 2, 1024, bf16=True)),
        (5.63, models.memory(made_of, 2, 1024, bf16=True, checkpointing=True)),
        (6.45, models.memory(made_of, 1, 64, bf16=True, accumulate=4)),
        (3.53, models.memory(made_of, 1, 64, bf16=True, layers="transformer")),
        (6.54, models.memory(made_of, 8, 256, bf16=True)),
        (3.44, models.memory(corpus, 1, 64, bf16=True)),
        (3.04, models.memory(shallow, 1, 64, bf16=True)),
    ):
        assert 0.97 * peak <= takes / 1e9 <= 1.13 * peak


SETTINGS = {"model": "124M", "batch_size": 64, "block_size": 1024, "checkpointing": False}


@given(st.integers(2**30, 2**36))
def test_a_refusal_names_the_largest_batch_and_block_that_fit(room):
    made_of = models.GPT2["124M"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "available", lambda: room)

        def fits(**changed):
            try:
                models.check_memory(made_of, SETTINGS | changed, gpu=False)
            except RequestError as error:
                return str(error)

        refused = fits()
        assert refused, "64 rows of 1,024 tokens take more than 64 GiB"
        if found := re.search(r"largest batch_size that fits is (\d+)", refused):
            rows = int(found[1])
            assert fits(batch_size=rows) is None and fits(batch_size=rows + 1)
        if found := re.search(r"largest block_size that fits is (\d+)", refused):
            block = int(found[1])
            assert fits(batch_size=1, block_size=block) is None
            assert block == 1024 or fits(batch_size=1, block_size=block + 1)
        else:
            assert "Not even one row fits" in refused and fits(batch_size=1, block_size=8)
        if "checkpointing=true" in refused:
            assert fits(checkpointing=True) is None


def test_an_experiment_that_cannot_fit_is_refused(project, archive, monkeypatch):
    monkeypatch.setattr(machine, "available", lambda: 24 * 2**30)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    with pytest.raises(RequestError, match=r"training 1558M .* takes about 36.* GiB of memory; 24\.0 are free here"):
        chain(experiment(archive, "model=1558M"))
    assert not (project / "runs").exists(), "nothing has run"


def test_what_the_settings_say_counts(monkeypatch):
    made_of, asked = models.GPT2["124M"], {"model": "124M", "batch_size": 8, "block_size": 128}
    monkeypatch.setattr(machine, "available", lambda: 5_000_000_000)
    for changed in ({}, {"vocabulary": "full"}, {"precision": "bfloat16"}, {"layers": "all"}, {"accumulate": 1}):
        with pytest.raises(RequestError, match=r"takes about 5\.4 GiB"):
            models.check_memory(made_of, asked | changed, gpu=False)
    for changed in ({"precision": "float32"}, {"accumulate": 2}):
        with pytest.raises(RequestError, match=r"takes about (5\.[5-9]|[67])"):
            models.check_memory(made_of, asked | changed, gpu=False)
    for changed in ({"vocabulary": "corpus"}, {"vocabulary": "auto"}, {"layers": "transformer"}):
        models.check_memory(made_of, asked | changed, gpu=False)
    with pytest.raises(RequestError):
        models.check_memory(made_of, asked | {"vocabulary": "auto"}, used=40_000, gpu=False)


def test_the_check_of_an_experiment_does_not_import_tensorflow(project, archive):
    script = f"""
import sys
from titlesmith.experiment import Experiment, find
Experiment.read(find("gpt2-titles"), ("harvest.path={archive}",))
print("tensorflow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("version", "line", "group"),
    [
        (2, "0::/user/job", "user/job"),
        (2, "0::/user/job", "user"),
        (2, "0::/elsewhere/on/the/host", ""),
        (1, "4:cpu,memory:/docker/abc", "memory/docker/abc"),
        (1, "4:memory:/docker/abc", "memory"),
    ],
)
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, version, line, group):
    limit, used, cached = machine.LIMITS[version]
    folder = tmp_path / "groups" / group
    folder.mkdir(parents=True)
    (folder / limit).write_text("2000000000\n")
    (folder / used).write_text("700000000\n")
    (folder / "memory.stat").write_text(f"anon 5\n{cached} 300000000\n")
    (tmp_path / "own").write_text(f"3:cpu:/\n{line}\n")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    own = machine.psutil.Process().memory_info().rss
    assert machine.available() == pytest.approx(1_600_000_000 + own, rel=0.01)
    (folder / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert machine.available() > 1_000_000_000
    assert list(machine._rooms_of_groups()) == ([] if version == 2 else [2**63 - 4096 - 400_000_000])


def test_the_device_is_named_in_words():
    assert re.fullmatch(r"CPU, \d+ cores?|GPU: .+", models.device())


@pytest.mark.parametrize(("said", "memory"), [("143771", 143771 * 2**20), ("No devices were found", None), ("", None)])
def test_the_memory_of_a_gpu_is_what_its_driver_says(tmp_path, monkeypatch, said, memory):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_memory() == memory
