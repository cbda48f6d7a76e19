"""Devices: processor, GPUs, and memory within the limits of containers."""

import re

import pytest

from titlesmith import models
from titlesmith.models import devices


@pytest.mark.parametrize(
    ("line", "group"),
    [("0::/user/job", "user/job"), ("0::/user/job", "user"), ("0::/elsewhere/on/the/host", "")],
)
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, line, group):
    folder = tmp_path / "groups" / group
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("2000000000\n")
    (folder / "memory.current").write_text("700000000\n")
    (folder / "memory.stat").write_text("anon 5\ninactive_file 300000000\n")
    (tmp_path / "own").write_text(f"3:cpu:/\n{line}\n")
    monkeypatch.setattr(devices, "CGROUP_ROOT", tmp_path / "groups")
    monkeypatch.setattr(devices, "OWN_CGROUPS", tmp_path / "own")
    own = devices.psutil.Process().memory_info().rss
    assert devices.available_memory() == pytest.approx(1_600_000_000 + own, rel=0.01)
    (folder / "memory.max").write_text("max\n")
    assert devices.available_memory() > 1_000_000_000 and list(devices._free_in_cgroups()) == []


def test_the_device_is_named_in_words():
    assert re.fullmatch(r"CPU, \d+ cores?|GPU: .+", models.device_name())


@pytest.mark.parametrize(("said", "memory"), [("143771", 143771 * 2**20), ("No devices were found", None), ("", None)])
def test_the_memory_of_a_gpu_is_what_its_driver_says(tmp_path, monkeypatch, said, memory):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_memory() == memory
