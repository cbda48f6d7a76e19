import socket

from titlesmith import doctor
from titlesmith.cli import setup


def test_it_tries_a_step_on_each_device_and_says_what_will_not_work(project, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nothing listens there
        open_, closed = (f"http://127.0.0.1:{s.getsockname()[1]}/" for s in (server, unused))
        monkeypatch.setattr(doctor, "HOSTS", {"arXiv": open_, "Hugging Face": closed})
        monkeypatch.setattr(doctor, "MIN_FREE", 1 << 60)
        installed = doctor.read_versions()
        monkeypatch.setattr(doctor, "read_versions", lambda: {k: v for k, v in installed.items() if k != "gradio"})
        setup.doctor()
    printed = capsys.readouterr().out
    for name in ("python", "packages", "NVIDIA driver", "tensorflow on", "torch on", "memory", "disk", "Hugging Face"):
        assert f"\n{name:<22} " in f"\n{printed}"
    assert "arXiv                  can be reached" in printed
    assert "will not work          downloads from Hugging Face: no connection" in printed
    assert "will not work          runs:" in printed and "a step failed" not in printed
    assert "will not work          titlesmith app: gradio not installed. pip install 'gradio" in printed


def test_a_framework_that_does_not_start_is_named(monkeypatch):
    (problem,) = doctor.take_step("torch", "print('CPU'); raise SystemExit('no libcudnn.so.9')", card="")
    assert problem == "training in torch: a step failed: no libcudnn.so.9"
    monkeypatch.setattr(doctor, "STEP_TIMEOUT", 0.1)
    (problem,) = doctor.take_step("torch", "import time; time.sleep(9)", card="")
    assert problem == "training in torch: a step failed: it took more than 0.1 s"


def test_a_gpu_that_cannot_be_used_is_explained():
    for device, capability, expected in (("GPU: x", 12.0, "older. Use smollm2"), ("CPU, 2 cores", 9.0, "sees none")):
        (problem,) = doctor.take_step("tensorflow", f"print('{device}')", f"x, 80 GiB, 580, {capability}")
        assert expected in problem
    assert not doctor.take_step("tensorflow", "print('GPU: x')", "x, 80 GiB, 580, 8.0")
    assert not doctor.take_step("torch", "print('x')", "x, 80 GiB, 580, 12.0")
