import os
import queue
import signal
import time
from types import SimpleNamespace

import pytest
from jupyter_client import KernelManager

from conftest import copy_run
from titlesmith import live
from titlesmith.runs import Run, notebook
from titlesmith.train import monitor


class Kernel:
    """A kernel as JupyterLab starts it, and the outputs of its cells as they arrive."""

    def __init__(self, folder):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def start(self, code: str) -> None:
        self.request, self.outputs = self.client.execute(code, allow_stdin=False), []

    def poll(self) -> bool:
        """Reads outputs; whether the cell has ended."""
        try:
            message = self.client.get_iopub_msg(timeout=0.2)
        except queue.Empty:
            return False
        if message["parent_header"].get("msg_id") == self.request:
            if message["msg_type"] == "status":
                return message["content"]["execution_state"] == "idle"
            self.outputs.append((message["msg_type"], message["content"]))
        return False

    def run(self, code: str) -> list[tuple[str, dict]]:
        self.start(code)
        end = time.monotonic() + 300
        while not self.poll():
            assert time.monotonic() < end, self.outputs
        return self.outputs

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def text(outputs: list[tuple[str, dict]], name: str = "stdout") -> str:
    return "".join(content["text"] for kind, content in outputs if kind == "stream" and content["name"] == name)


def errors(outputs: list[tuple[str, dict]]) -> list[str]:
    return ["\n".join(content["traceback"]) for kind, content in outputs if kind == "error"]


def test_a_figure_that_cannot_be_drawn_does_not_end_the_training(finished, monkeypatch):
    def fail(*_):
        raise ValueError("no font")

    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data))
    monkeypatch.setattr(live, "display", lambda **_: handle)
    monkeypatch.setattr(live.plots, "draw_losses", fail)
    with live.LiveBar(finished, total=6) as bar:
        bar.update(3)
        bar.refresh()
    assert "3" in shown[-1]["text/plain"] and "<img" not in shown[-1]["text/html"]


@pytest.fixture
def trained(project, finished_project):
    """A copy of the finished run, without its training."""
    (project / "papers.tsv").write_bytes((finished_project / "papers.tsv").read_bytes())
    run = copy_run(project, "copied", finished_project)
    for stage in ("evaluate", "generate", "finetune"):
        run.clear(stage)
    return run


@pytest.fixture
def kernel(trained, project):
    kernel = Kernel(project)
    yield kernel
    kernel.close()


PARAMETERS = """
import json
from titlesmith.settings import defaults
globals().update(defaults("finetune"), run_name="copied", **json.loads('''{"batch_size": 2, "block_size": 32,
  "steps": 3000, "save_every": 0, "sample_every": 10, "validate_every": 10}'''))
"""
UNCOMPILED = (
    "from titlesmith.train import kernels; kernels.compiled = lambda function: function  # compiling takes seconds"
)
BEGIN = 'from titlesmith import plots\nfrom titlesmith.notebook import begin\n\nrun = begin("finetune", globals())'
TRAIN = "history = run.finetune()\nprint(history)"


@pytest.mark.kernel
def test_a_training_cell_is_stopped_rerun_and_changed(kernel, trained):
    assert not any(errors(kernel.run(code)) for code in (UNCOMPILED, PARAMETERS, BEGIN))
    # Before the training cell has run, later cells have no result
    assert "NameError" in errors(kernel.run("plots.loss(history)"))[0]

    def train_until(step: int) -> list[tuple[str, dict]]:
        kernel.start(TRAIN)
        end = time.monotonic() + 300
        while len(monitor.read(trained / "history.csv")) < step:
            assert time.monotonic() < end and not kernel.poll(), errors(kernel.outputs)
        kernel.manager.interrupt_kernel()
        while not kernel.poll():
            assert time.monotonic() < end, kernel.outputs[-3:]
        return kernel.outputs

    # The stop button: one sentence, a checkpoint of the last step, a live view in one output
    outputs = train_until(25)
    rows = monitor.read(trained / "history.csv")
    assert f"Stopped at step {len(rows)} of 3,000; run the cell" in text(outputs) and not errors(outputs)
    assert not text(outputs, "stderr"), "nothing is red"
    shown = [content["data"] for kind, content in outputs if kind in ("display_data", "update_display_data")]
    assert "<progress" in shown[-1]["text/html"] and "Sample of step" in shown[-1]["text/html"]
    assert "data:image/png" in shown[-1]["text/html"] and " left" in shown[-1]["text/html"]
    assert sum(kind == "display_data" for kind, _ in outputs) == 1
    assert (trained / "model" / "last").exists()
    # Later cells show the training so far
    assert not errors(kernel.run("plots.loss(history); history.samples()"))

    # Run again: it resumes after that step
    before = rows
    outputs = train_until(len(rows) + 5)
    rows = monitor.read(trained / "history.csv")
    assert rows[: len(before) - 1] == before[:-1] and len(rows) >= len(before) + 5 and not errors(outputs)

    # A changed parameter, with or without running the cell of `begin`: another training
    kernel.run("steps = 4; learning_rate = 0.001")
    outputs = kernel.run(TRAIN)
    assert "Training stopped because all 4 steps were done" in text(outputs)
    assert Run("copied").record("finetune")["settings"]["steps"] == 4
    assert len(monitor.read(trained / "history.csv")) == 4 and Run("copied").is_current("finetune")

    # SIGTERM saves a checkpoint, and ends the kernel
    kernel.run("steps = 3000")
    kernel.start(TRAIN)
    while len(monitor.read(trained / "history.csv")) < 12 or Run("copied").record("finetune")["settings"]["steps"] == 4:
        kernel.poll()
    os.kill(kernel.manager.provisioner.pid, signal.SIGTERM)
    kernel.manager.provisioner.process.wait(60)
    last = len(monitor.read(trained / "history.csv"))
    assert Run("copied").record("finetune")["stopped"] == f"stopped at step {last} of 3,000"
    assert notebook("finetune").exists()
