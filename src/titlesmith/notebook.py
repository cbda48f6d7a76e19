"""The Python API of the notebooks: a stage begins, does its work in one call, and returns a result that shows tables.

The functions of `titlesmith.plots` draw the same results.
"""

from dataclasses import dataclass
from functools import partial

from IPython.display import HTML

from titlesmith import models
from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.corpus import build as build_corpus
from titlesmith.errors import shorten
from titlesmith.evaluate import evaluate, held_out_texts
from titlesmith.experiment import SHARED, Experiment
from titlesmith.finetune import finetune_run
from titlesmith.generate import open_backend, relevance, texts
from titlesmith.harvest import harvest
from titlesmith.pipeline import chain, source
from titlesmith.results import Built, Evaluation, Harvested, History, Texts
from titlesmith.runs import MADE_UP, STAGES, Run
from titlesmith.settings import declared
from titlesmith.tables import table
from titlesmith.train import monitor


def begin(stage: str, namespace: dict) -> "Stage":
    """Checks a notebook's parameters and locks its run for this kernel.

    If an earlier stage is missing, because the notebook was opened by itself, the notebooks before it run first: those
    that ran before with the settings that they had, the others with those of ``run_settings``, which a published
    notebook has, else with their defaults and this notebook's model and seed.

    Parameters
    ----------
    stage
        harvest, corpus, finetune, generate or evaluate.
    namespace
        The notebook's ``globals()``, which hold the parameters.

    Raises
    ------
    RequestError
        A value is not allowed, or not in combination with the others.
    """
    settings = {name: parameter.check(namespace[name]) for name, parameter in declared(stage).items()}
    models.check_processes(settings)
    run, earlier = Run(namespace["run_name"]), STAGES[: STAGES.index(stage)]
    if not all(map(run.is_current, earlier)):
        published = namespace.get("run_settings", {})
        recorded = {name: run.record(name).get("settings") or published.get(name, {}) for name in earlier}
        print(f"{run.path} has no {earlier[-1]} yet. The notebooks before this one run first:")
        for name, values in recorded.items():
            set_here = {k: v for k, v in values.items() if k in declared(name) and v != declared(name)[k].default}
            print(
                f"  {name:<9}", ", ".join(f"{key}: {shorten(value)}" for key, value in set_here.items()) or "defaults"
            )
        shared = {name: settings[name] for name in SHARED if name in settings}
        chain(Experiment.make(run.name, recorded | {stage: settings}, shared), until=earlier[-1])
    models.fetch(settings.get("model", ""))
    run.begin(stage, settings, source(stage))
    if run.made_up:
        print(MADE_UP)
    return Stage(run, settings)


@dataclass(frozen=True)
class Stage:
    """One stage of a run. Each method does the work of one notebook and records that the stage is done.

    Attributes
    ----------
    run
        The run directory.
    settings
        The values of the parameters cell.
    """

    run: Run
    settings: dict

    def harvest(self) -> Harvested:
        """Harvests papers from the source; resumes an interrupted harvest."""
        return Harvested(harvest(self.run, self.settings), self.settings["seed"], self.run.source_label)

    def build_corpus(self) -> Built:
        """Cleans, splits and tokenizes the papers."""
        model = self.settings["model"]
        vocabulary, context = models.vocabulary(model), models.context(model)
        measure = partial(models.measure_openings, model)
        corpus = build_corpus(self.run, self.settings, vocabulary, context, measure)
        return Built(corpus, self.run.source_label)

    def finetune(self) -> History:
        """Trains the model; resumes an interrupted training from its last checkpoint."""
        finetune_run(self.run, self.settings)
        self.run.finish("finetune")
        corpus, record = Corpus(self.run), self.run.record("finetune")
        train = corpus.documents("train")
        return History(
            rows=monitor.read(self.run / "history.csv"),
            loss_floor=self.settings["loss_floor"],
            memorization_floor=monitor.memorization_floor(len(train), train.target_tokens, corpus.has_prompt),
            kept_step=record["kept_step"],
            stop_reason=record["stop_reason"],
            first_samples=monitor.first_samples(self.run),
            label=self.run.source_label,
        )

    def look_up_prefixes(self) -> HTML:
        """A table of the prefixes: how many training texts begin with each or contain its words."""
        counts = relevance.relevance(Corpus(self.run), self.settings["prefixes"])
        return table([vars(prefix) for prefix in counts])

    def generate(self) -> Texts:
        """Generates the texts; resumes after the last block that was written."""
        rows = texts.write_texts(self.run, open_backend(self.run), Corpus(self.run), self.settings)
        return Texts(rows, self.run.name)

    def evaluate(self) -> Evaluation:
        """Measures the model and its texts."""
        corpus = Corpus(self.run)
        metrics = evaluate(self.run, engines.load_engine(self.run), corpus, self.settings)
        generated = [row["text"] for row in self.run.texts]
        return Evaluation(
            metrics=metrics,
            model=self.run.record("finetune")["settings"]["model"],
            rows=self.run.texts,
            held_out=held_out_texts(corpus, len(generated)),
            label=self.run.source_label,
        )
