import socket

import pytest

from titlesmith import doctor
from titlesmith.cli import setup


def test_it_tries_a_step_on_each_device_and_says_what_will_not_work(project, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nothing listens there
        open_, closed = (f"http://127.0.0.1:{s.getsockname()[1]}/" for s in (server, unused))
        monkeypatch.setattr(doctor, "HOSTS", {"arXiv": open_, "Hugging Face": closed})
        monkeypatch.setattr(doctor, "MIN_DISK", 1 << 60)
        setup.doctor()
    printed = capsys.readouterr().out
    for name in ("python", "packages", "NVIDIA driver", "tensorflow on", "torch on", "memory", "disk"):
        assert f"\n{name:<22} " in f"\n{printed}"
    assert "network                arXiv can be reached" in printed
    assert "will not work          downloads from Hugging Face: no connection" in printed
    assert "will not work          runs:" in printed and "a step failed" not in printed


def test_a_framework_that_does_not_start_is_named():
    assert doctor.take_step("raise SystemExit('no libcudnn.so.9')") == {"step": "no libcudnn.so.9"}
    (problem,) = doctor.explain("torch", {"step": "no libcudnn.so.9"}, has_card=False)
    assert problem == "training in torch: a step failed: no libcudnn.so.9"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"gpu": True, "capability": [12, 0]}, "its kernels are older. Use smollm2"),
        ({"gpu": False}, "on the GPU: it sees none"),
        ({"gpu": True, "capability": [9, 0], "compiled step": "no libdevice"}, "It uses the plain graph, slower"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_explained(report, expected):
    (problem,) = doctor.explain("tensorflow", report, has_card=True)
    assert expected in problem
    assert not doctor.explain("tensorflow", {"gpu": True, "capability": [8, 0]}, has_card=True)


def test_missing_packages_are_named_by_what_needs_them(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "1" if name != "gradio" else doctor_missing())
    assert doctor.missing_packages("app") == ["gradio"] and doctor.missing_packages("near") == []


def doctor_missing():
    raise doctor.PackageNotFoundError
