"""What this machine can do: packages, devices that take a training step, memory, disk, network, and what will not work.

Each framework is tried in a separate process, because two frameworks' GPU libraries can collide in one.
"""

import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import distributions
from urllib.parse import urlsplit

from huggingface_hub.constants import ENDPOINT

from titlesmith import models
from titlesmith.harvest import arxiv
from titlesmith.hints import extra_packages, install_command
from titlesmith.models.devices import GIB
from titlesmith.runs import root

NEEDED_FOR = {
    "book": "titlesmith book",
    "hf": "smollm2 and hf: models",
    "app": "titlesmith app",
    "sweep": "titlesmith sweep",
    "near": "corpus.near_duplicates",
    "lab": "jupyter lab",
}
HOSTS = {"arXiv": arxiv.SERVICE, "Hugging Face": ENDPOINT}
STEP_TIMEOUT = 180  # seconds, to import a framework and take a step
MIN_FREE = 2 * GIB  # memory for a training of scratch, and disk for its run and the book
NEWEST_TENSORFLOW = 9  # major compute capability that TensorFlow's wheels have kernels for
# A program for each framework: prints the device, and takes a training step on it
STEPS = {
    "tensorflow": """
from titlesmith.models.devices import device_name, tensorflow
tf = tensorflow()
print(device_name())
weight = tf.Variable(tf.ones([64, 64]))
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.tanh(weight @ weight / 64))
weight.assign_sub(0.1 * tape.gradient(loss, weight))
""",
    "torch": """
import torch
gpu = torch.cuda.is_available()
print(torch.cuda.get_device_name() if gpu else "CPU")
weight = torch.ones(64, 64, device="cuda" if gpu else "cpu", requires_grad=True)
torch.tanh(weight @ weight / 64).sum().backward()
torch.optim.AdamW([weight]).step()
""",
}


def examine() -> list[str]:
    """Prints what there is; returns what will not work, each with its remedy."""
    problems, installed = [], read_versions()
    _show("python", f"{platform.python_version()}, {sys.executable}")
    _show("system", platform.platform())
    _show("project", root())
    # Packages
    names = ("titlesmith", "tensorflow", "torch", "transformers", "papermill", "jupyter-book", "polars", "numpy")
    _show("packages", ", ".join(f"{name} {installed.get(name, 'missing')}" for name in names))
    for extra, use in NEEDED_FOR.items():
        needed = (re.match(r"[\w.-]+", package)[0] for package in extra_packages(extra))
        if missing := [name for name in needed if name not in installed]:
            problems.append(f"{use}: {', '.join(missing)} not installed. {install_command(extra)}")
    # Devices
    tool, card = shutil.which("nvidia-smi"), ""
    if tool:
        query = [tool, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
        card = subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0]
    _show("NVIDIA driver", card or "none")
    if {"nvidia-cudnn-cu12", "nvidia-cudnn-cu13"} <= installed.keys():
        problems.append("GPU: the libraries of CUDA 12 and 13 overwrite each other. Use two environments (book/gpu.md)")
    for name, program in STEPS.items():
        if name in installed:
            problems += take_step(name, program, card)
    # Memory, disk, network
    for name, free in (("memory", models.available_memory()), ("disk", shutil.disk_usage(root()).free)):
        _show(name, f"{free / GIB:.1f} GiB free")
        if free < MIN_FREE:
            problems.append(f"runs: {free / GIB:.1f} GiB of {name} are free; the smallest model needs 2. Free some")
    for name, address in HOSTS.items():
        parts = urlsplit(address)
        try:
            socket.create_connection((parts.hostname, parts.port or 443), timeout=3).close()
            _show(name, "can be reached")
        except OSError as error:
            _show(name, error)
            problems.append(f"downloads from {name}: no connection. Files and made-up papers need none")
    return problems


def _show(name: str, value: object) -> None:
    print(f"{name:<22} {value}", flush=True)


def read_versions() -> dict[str, str]:
    """The versions of the installed packages by name."""
    return {re.sub(r"[-_.]+", "-", f"{package.name}").lower(): package.version for package in distributions()}


def take_step(framework: str, program: str, card: str) -> list[str]:
    """Prints the device on which a program takes a training step; returns what will not work with this NVIDIA GPU."""
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=STEP_TIMEOUT)
        device, error, failed = done.stdout, done.stderr.strip() or f"it ended with {done.returncode}", done.returncode
    except subprocess.TimeoutExpired:
        device, error, failed = "", f"it took more than {STEP_TIMEOUT} s", True
    device = (device.splitlines() or ["nothing"])[-1]
    _show(f"{framework} on", device)
    problems = [f"training in {framework}: a step failed: {error.splitlines()[-1][:200]}"] if failed else []
    capability = re.search(r", (\d+)\.\d$", card)
    if card and device.startswith(("CPU", "nothing")):
        problems.append(f"{framework} on the GPU: it sees none. See book/gpu.md for its libraries; Windows needs WSL2")
    elif framework == "tensorflow" and capability and int(capability[1]) > NEWEST_TENSORFLOW:
        problems.append(f"{framework} on this GPU: its kernels are older. Use smollm2 or hf: models, in PyTorch")
    return problems
