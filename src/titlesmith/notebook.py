"""The Python API of the notebooks: a stage begins, does its work in one call, and returns a result that shows tables.

The functions of `titlesmith.plots` draw the same results.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from IPython.display import HTML
from tqdm import tqdm

from titlesmith import models
from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.corpus import build as build_corpus
from titlesmith.errors import InterruptError, shorten
from titlesmith.evaluate import evaluate, held_out_texts
from titlesmith.experiment import SHARED, Experiment
from titlesmith.finetune import finetune_run
from titlesmith.generate import open_backend, relevance, texts
from titlesmith.harvest import harvest
from titlesmith.live import LiveBar, is_watched, merge_streams
from titlesmith.pipeline import chain, source
from titlesmith.results import Built, Evaluation, Harvested, History, Texts
from titlesmith.runs import MADE_UP, STAGES, Run, release
from titlesmith.settings import declared, defaults
from titlesmith.tables import table
from titlesmith.train import monitor


def begin(stage: str, namespace: dict) -> "Stage":
    """Checks a notebook's parameters.

    If an earlier stage is missing, because the notebook was opened by itself, the notebooks before it run first: those
    that ran before with the settings that they had, the others with those of ``run_settings``, which a published
    notebook has, else with their defaults and this notebook's model and seed.

    ``namespace`` is the notebook's ``globals()``, which hold the parameters. A value that is not allowed, or not in
    combination with the others, is a RequestError.
    """
    merge_streams()
    begun = Stage(Run(namespace["run_name"]), stage, namespace)
    settings, run, earlier = begun.settings, begun.run, STAGES[: STAGES.index(stage)]
    if not all(map(run.is_current, earlier)):
        published = namespace.get("run_settings", {})
        recorded = {name: run.record(name).get("settings") or published.get(name, {}) for name in earlier}
        print(f"{run.path} has no {earlier[-1]} yet. The notebooks before this one run first:")
        for name, values in recorded.items():
            changed = [f"{k}: {shorten(v)}" for k, v in values.items() if v != defaults(name).get(k, v)]
            print(f"  {name:<9}", ", ".join(changed) or "defaults")
        shared = {name: settings[name] for name in SHARED if name in settings}
        sections = recorded | {stage: settings}
        given = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
        chain(Experiment.make(run.name, given | shared), until=earlier[-1])
    return begun


@dataclass
class Stage:
    """The stage ``name`` of a run. Each method does the work of one notebook and records that the stage is done.

    While it works, no other program can write the run. ``namespace`` is the notebook's ``globals()``.
    """

    run: Run
    name: str
    namespace: dict = field(repr=False)

    @property
    def settings(self) -> dict:
        """The present values of the parameters, checked (RequestError)."""
        settings = {name: p.check(self.namespace.get(name, p.default)) for name, p in declared(self.name).items()}
        if self.name == "finetune":
            models.check_training(settings)
        return settings

    @contextmanager
    def _working(self) -> Iterator[None]:
        models.fetch(self.settings.get("model", ""))
        self.run.begin(self.name, self.settings, source(self.name))
        if self.run.made_up:
            print(MADE_UP)
        try:
            yield
        except KeyboardInterrupt:
            raise InterruptError(f"interrupted; {self.run.how_to_resume}") from None
        finally:
            release(self.run / ".stage.lock")  # so that the command line can resume or finish the run

    def harvest(self) -> Harvested:
        """Harvests papers from the source; resumes an interrupted harvest."""
        with self._working():
            return Harvested(harvest(self.run, self.settings), self.settings["seed"], self.run.source_label)

    def build_corpus(self) -> Built:
        """Cleans, splits and tokenizes the papers."""
        with self._working():
            model = self.settings["model"]
            vocabulary, context = models.vocabulary(model), models.context(model)
            measure = partial(models.measure_openings, model)
            corpus = build_corpus(self.run, self.settings, vocabulary, context, measure)
            return Built(corpus, self.run.source_label)

    def finetune(self) -> History:
        """Trains the model; resumes an interrupted training from its last checkpoint.

        In JupyterLab and Colab, an interrupted training returns its history so far; its text says how to resume.
        """
        with self._working():
            stopped = ""
            try:
                finetune_run(self.run, self.settings, partial(LiveBar, self.run) if is_watched() else tqdm)
                self.run.finish("finetune")
            except InterruptError as interrupt:
                if not is_watched():
                    raise
                stopped = str(interrupt)
                if interrupt.signal == signal.SIGTERM:
                    print(stopped, flush=True)
                    os.kill(os.getpid(), signal.SIGTERM)
            corpus, record = Corpus(self.run), self.run.record("finetune")
            train = corpus.documents("train")
            return History(
                rows=monitor.read(self.run / "history.csv"),
                loss_floor=self.settings["loss_floor"],
                memorization_floor=monitor.memorization_floor(len(train), train.target_tokens, corpus.has_prompt),
                kept_step=record.get("kept_step", 0),
                stop_reason=record.get("stop_reason", ""),
                stopped=stopped,
                first_samples=monitor.first_samples(self.run),
                label=self.run.source_label,
            )

    def look_up_prefixes(self) -> HTML:
        """A table of the prefixes: how many training texts begin with each or contain its words."""
        counts = relevance(Corpus(self.run), self.settings["prefixes"])
        return table([vars(prefix) for prefix in counts])

    def generate(self) -> Texts:
        """Generates the texts; resumes after the last block that was written."""
        with self._working():
            rows = texts.write_texts(self.run, open_backend(self.run), Corpus(self.run), self.settings)
            return Texts(rows, self.run.name)

    def show_box(self) -> object:
        """In JupyterLab and Colab, a box to type beginnings, whose texts the model writes at once; else nothing."""
        if not is_watched():
            return None
        try:
            from titlesmith import box
        except ImportError:  # in a kernel without the extra for JupyterLab
            print("A box to type beginnings needs a package: %pip install ipywidgets, then restart the kernel")
            return None
        self.run.require("finetune")
        return box.create(partial(open_backend, self.run), Corpus(self.run), self.settings)

    def evaluate(self) -> Evaluation:
        """Measures the model and its texts."""
        with self._working():
            corpus = Corpus(self.run)
            metrics = evaluate(self.run, engines.load_engine(self.run), corpus, self.settings)
        return Evaluation(
            metrics=metrics,
            model=self.run.record("finetune")["settings"]["model"],
            rows=self.run.texts,
            held_out=held_out_texts(corpus, len(self.run.texts)),
            label=self.run.source_label,
            people="by the sample grammar" if self.run.made_up else "by people",
        )
