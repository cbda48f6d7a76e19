"""The fine-tune stage of a run: corpus, engine, loop and sampling together."""

from titlesmith import train
from titlesmith.corpus import Corpus
from titlesmith.generate import Probe, save_backend
from titlesmith.runs import Run
from titlesmith.train import monitor


def finetune_run(run: Run, settings: dict) -> train.Engine:
    """Trains the model of a run, and resumes an interrupted training.

    The run's record gets ``device``, and when training stops ``steps``, ``kept_step`` and ``stop_reason``.

    Parameters
    ----------
    run
        A run whose corpus is built.
    settings
        The parameters of notebook 03.
    """
    corpus = Corpus(run)
    engine = train.start_engine(run, settings["model"], corpus, settings["seed"], settings["quantize"])
    run.update_stage("finetune", device=engine.device(settings))
    print(f"Training on {engine.device(settings)}.")
    watch = monitor.Monitor(run, settings)
    train.finetune(engine, corpus, settings, watch, Probe(corpus, settings))
    save_backend(engine, run)
    kept = monitor.kept_step(monitor.read(watch.history), settings["keep"], engine.step)
    run.update_stage("finetune", steps=engine.step, kept_step=kept, stop_reason=watch.reason)
    return engine
