"""The notebook for Google Colab: its form, what the machine is enough for, the stages one by one, the zipped book."""

import importlib
import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import nbformat
from IPython.display import FileLink, display

from titlesmith import models, package
from titlesmith.experiment import Experiment
from titlesmith.hints import extra_packages
from titlesmith.models.devices import GIB, gpu_memory, silence_stderr, tensorflow
from titlesmith.pipeline import chain
from titlesmith.runs import root, shipped

IN_COLAB = "google.colab" in sys.modules  # whether this kernel is Colab's
DRIVE = Path("/content/drive")
# Fields of the form that are parameters; their types, allowed values and help are those of the stage notebooks
FIELDS = {
    "source": "harvest.source",
    "category": "harvest.categories",
    "model": "model",
    "steps": "finetune.steps",
    "prefixes": "generate.prefixes",
}
EXPERIMENTS = {"scratch": "scratch-titles", "base": "archive-titles", "smollm2": "smollm2-titles"}  # else gpt2-titles
SHARE_OF_PEAK = 0.3  # of the measured matrix products, which a training step reaches
MINUTES = {"sample": 0, "arxiv": 2, "oai": 10}  # of a harvest
START_MINUTES = 2.0  # of five kernels, corpus, texts and measurements


def open_folder(drive: bool) -> None:
    """Stores runs on Google Drive, which outlives the machine; outside of Colab, in the project or this folder."""
    if drive and IN_COLAB:
        importlib.import_module("google.colab.drive").mount(str(DRIVE))
        os.environ["TITLESMITH_ROOT"] = str(DRIVE / "MyDrive" / "titlesmith")
    (root() / "runs").mkdir(parents=True, exist_ok=True)
    print(f"runs are stored in     {root() / 'runs'}")


def read_form(form: dict) -> Experiment:
    """The experiment of a filled form, checked as on the command line (RequestError).

    ``form`` holds the variables of the form's cell: `FIELDS`; ``years``, such as 2024 or 2022-2024, or empty; and
    ``more``, other parameters such as ``finetune.batch_size=8``, separated by spaces. What the form leaves open is as
    in the experiment of the model; made-up papers ignore the category.
    """
    if form["source"] == "sample":  # made-up papers have no category of arXiv
        form = form | {"category": ""}
    overrides = [f"{parameter}={form[field]}" for field, parameter in FIELDS.items()]
    first, _, last = form["years"].replace(" ", "").partition("-")
    if first:
        overrides += [f"harvest.since={first}-01-01", f"harvest.until={last or first}-12-31"]
    name = EXPERIMENTS.get(form["model"], "gpt2-titles")
    return Experiment.read(shipped() / "experiments" / f"{name}.yml", (*overrides, *form["more"].split()))


def describe(experiment: Experiment) -> None:
    """Prints the device, its memory, the models that can be trained in it, and how long the experiment will take."""
    training, harvest = experiment.settings["finetune"], experiment.settings["harvest"]
    vocabulary = experiment.settings["corpus"]["vocabulary"]
    gpu, fitting = gpu_memory(), []
    room = gpu or models.available_memory()
    for name in models.names():
        shape = models.hyperparameters(name, vocabulary)
        if models.training_memory(shape, training | {"model": name}, True, gpu=bool(gpu)) <= room:
            fitting.append(name)
    shape = models.hyperparameters(training["model"], vocabulary)
    tokens = training["steps"] * training["accumulate"] * training["batch_size"] * training["block_size"]
    minutes = 6 * models.num_parameters(shape) * tokens / (SHARE_OF_PEAK * measure_speed()) / 60
    total = minutes + START_MINUTES + MINUTES.get(harvest["source"], 1)
    print(f"device                 {models.device_name()}")
    print(f"memory                 {room / GIB:.0f} GiB, enough to train {', '.join(fitting)} with this batch size")
    print(f"time                   about {total:.0f} minutes, {max(minutes, 0.5):.0f} of them for training")
    if not gpu and IN_COLAB:
        print("no GPU                 choose Runtime, Change runtime type, T4 GPU for larger models")


def measure_speed(seconds: float = 0.5, width: int = 1024) -> float:
    """Floating-point operations per second of matrix products in float32 on TensorFlow's device."""
    tf, count = tensorflow(), 0
    with silence_stderr(), tf.Graph().as_default(), tf.compat.v1.Session() as session:  # it reports missing GPUs
        matrix = tf.compat.v1.Variable(tf.random.normal([width, width]))
        product = tf.matmul(matrix, matrix).op
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(product)  # not timed
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            session.run(product)
            count += 1
        return 2 * width**3 * count / (time.perf_counter() - start)


def run_stage(experiment: Experiment, name: str, stage: str) -> None:
    """Runs a stage if it needs it, with its progress, and shows the tables and figures of its notebook here."""
    run = chain(experiment, name, until=stage, echo=lambda line: print(line) if f" {stage}:" in line else None)
    for cell in nbformat.read(run.executed(stage), 4).cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                display(output.data, raw=True)
            elif output.get("name") == "stdout":  # the bars were shown while it ran
                print(*(line for line in output.text.splitlines(True) if "%|" not in line), sep="", end="")


def save_book() -> Path:
    """Builds the book of all complete runs and offers it as a zip file; returns the file.

    Jupyter Book needs other versions of packages than Colab has, so they are installed for this one program.
    """
    target = root() / "book.zip"
    with tempfile.TemporaryDirectory() as folder:
        project, packages = Path(folder) / "project", Path(folder) / "packages"
        package.init(project)
        (project / "runs").symlink_to(root() / "runs")
        environment = os.environ | {"TITLESMITH_ROOT": str(project)}
        if not find_spec("jupyter_book"):
            options = ("--quiet", "--target", str(packages), "--constraint", str(project / "constraints.txt"))
            package.run_module("pip", "install", *options, *extra_packages("book"))
            environment["PYTHONPATH"] = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
        package.run_module("titlesmith", "book", "--zip", env=environment)
        shutil.copyfile(project / "_build" / "book.zip", target)
    print(f"the book is in         {target}: unpack it and open index.html")
    if IN_COLAB:
        importlib.import_module("google.colab.files").download(str(target))
    else:
        display(FileLink(str(target)))
    return target
