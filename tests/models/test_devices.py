"""Devices: processor, GPUs, and memory within the limits of containers."""

import re

import pytest

from titlesmith import models
from titlesmith.models import devices


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
    limit, used, cached = devices.CGROUP_FILES[version]
    folder = tmp_path / "groups" / group
    folder.mkdir(parents=True)
    (folder / limit).write_text("2000000000\n")
    (folder / used).write_text("700000000\n")
    (folder / "memory.stat").write_text(f"anon 5\n{cached} 300000000\n")
    (tmp_path / "own").write_text(f"3:cpu:/\n{line}\n")
    monkeypatch.setattr(devices, "CGROUP_ROOT", tmp_path / "groups")
    monkeypatch.setattr(devices, "OWN_CGROUPS", tmp_path / "own")
    own = devices.psutil.Process().memory_info().rss
    assert devices.available_memory() == pytest.approx(1_600_000_000 + own, rel=0.01)
    (folder / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert devices.available_memory() > 1_000_000_000
    assert list(devices._free_in_cgroups()) == ([] if version == 2 else [2**63 - 4096 - 400_000_000])


def test_the_device_is_named_in_words():
    assert re.fullmatch(r"CPU, \d+ cores?|GPU: .+", models.device_name())


@pytest.mark.parametrize(("said", "memory"), [("143771", 143771 * 2**20), ("No devices were found", None), ("", None)])
def test_the_memory_of_a_gpu_is_what_its_driver_says(tmp_path, monkeypatch, said, memory):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_memory() == memory
