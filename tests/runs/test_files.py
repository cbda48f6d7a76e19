"""The order of fsync, rename and delete, recorded from the real calls, and errors of full disks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from titlesmith.errors import RunError
from titlesmith.runs import merging, remove, replacing, swapped, swapping, write_json


@pytest.fixture
def calls(monkeypatch):
    """What is fsynced, renamed and deleted, in order, as (call, path) with paths as they are at that time."""
    log, real = [], {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "rmdir")}

    def fsync(descriptor):
        log.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        return real["fsync"](descriptor)

    def replace(source, target, **kwargs):
        log.append(("rename", str(source), str(target)))
        return real["replace"](source, target, **kwargs)

    def rename(path, target):
        return Path(target) if replace(path, target) is None else None

    def rmtree(path, **kwargs):
        if Path(path).exists():
            log.append(("delete", str(path)))
        return remove_tree(path, **kwargs)

    remove_tree = shutil.rmtree
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "replace", rename)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    return log


def check_durable(calls, ignore=()):
    """Every renamed file was fsynced before its rename, and its folder after it and before anything is deleted."""
    renames = [(i, *call[1:]) for i, call in enumerate(calls) if call[0] == "rename"]
    assert renames
    for i, source, target in renames:
        if not Path(target).name.startswith("."):
            assert ("fsync", source) in calls[:i], f"{source} was renamed before it was on the disk"
        later = calls[i + 1 :]
        synced = later.index(("fsync", str(Path(target).parent)))
        assert not [call for call in later[:synced] if call[0] == "delete"], f"{target}: deleted too early"


def test_a_file_is_on_the_disk_before_its_rename_and_the_folder_after(tmp_path, calls):
    write_json(tmp_path / "a.json", {})
    assert calls == [
        ("fsync", str(tmp_path / ".a.json.partial")),
        ("rename", str(tmp_path / ".a.json.partial"), str(tmp_path / "a.json")),
        ("fsync", str(tmp_path)),
    ]


def test_an_older_folder_is_deleted_after_the_newer_is_on_the_disk(tmp_path, calls):
    for content in ("old", "new"):
        with swapping(tmp_path / "last") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "weights").write_text(content)
    check_durable(calls)
    assert ("fsync", str(tmp_path / ".last.partial/sub/weights")) in calls
    assert (tmp_path / "last/sub/weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_the_file_that_says_complete_is_moved_last(tmp_path, calls):
    (tmp_path / "other").mkdir()
    with merging(tmp_path, "checkpoint") as folder:
        for name in ("checkpoint", "model-1", "vocabulary"):
            (folder / name).write_text(name)
    check_durable(calls)
    renamed = [Path(call[2]).name for call in calls if call[0] == "rename"]
    assert renamed[:3] == ["model-1", "vocabulary", "checkpoint"]
    last = next(i for i, call in enumerate(calls) if call[-1] == str(tmp_path / "checkpoint"))
    assert calls[last - 1] == ("fsync", str(tmp_path)), "the names of the others are on the disk first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "model-1", "other", "vocabulary"]


def test_a_folder_in_the_way_of_a_temporary_file_is_removed(tmp_path):
    (tmp_path / ".a.json.partial").mkdir()
    write_json(tmp_path / "a.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_interrupted_swap_is_restored(tmp_path):
    (tmp_path / ".last.old").mkdir()
    assert swapped(tmp_path / "last").is_dir()


def test_remove_accepts_files_folders_and_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    for name in ("file", "folder", "nothing"):
        remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


def save_gpt2(folder):
    from titlesmith.corpus.tokenizer import Tokenizer
    from titlesmith.train.gpt2 import GPT2Engine

    shape = {"n_vocab": 300, "n_ctx": 16, "n_embd": 8, "n_head": 1, "n_layer": 1}
    engine = GPT2Engine(Tokenizer.learn(["a text"] * 3, 300), shape, 1)
    for engine.step in (1, 2):
        engine.save_weights(folder / "model")
    assert len(list((folder / "model").glob("model-*"))) == 2, "of the newer checkpoint only"


def save_spool(folder):
    from titlesmith.harvest.store import Spool

    with Spool(folder / ".spool") as spool:
        spool.add(pl.DataFrame({"id": ["a"], "published": [None], "updated": [None]}))
        spool.write(folder / "papers.parquet")


def save_documents(folder):
    from titlesmith.corpus.documents import writing_documents
    from titlesmith.corpus.tokenizer import Tokenizer

    with writing_documents(folder / "train.bin", Tokenizer.learn(["a text"] * 3, 300)) as write:
        write([[1, 2]], [(0, 3)])


@pytest.mark.parametrize("write", [save_gpt2, save_spool, save_documents])
def test_what_the_stages_write_is_on_the_disk_before_it_counts(tmp_path, calls, write):
    write(tmp_path)
    check_durable(calls)


FULL = """
import resource, signal, sys
from titlesmith.runs import replacing
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("x" * 2000)
"""


def test_a_full_disk_names_the_file_and_keeps_the_older_one(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert re.search(r"RunError: .*/texts\.jsonl cannot be written: .*Free some space.* it resumes", done.stderr)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_dev_full_is_a_full_disk(tmp_path):
    error = pytest.raises(RunError, match=r"a\.json cannot be written: No space left")
    with error, replacing(tmp_path / "a.json"), Path("/dev/full").open("w") as file:
        file.write("x")
