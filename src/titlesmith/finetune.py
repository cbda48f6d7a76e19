"""The fine-tune stage of a run, and the program of each of several processes: ``python -m titlesmith.finetune RUN``."""

import sys
from collections.abc import Callable

from tqdm import tqdm

from titlesmith import models, train
from titlesmith.corpus import Corpus
from titlesmith.errors import TitlesmithError
from titlesmith.evaluate import snapshot, snapshot_documents
from titlesmith.generate import Probe, save_backend
from titlesmith.models import base
from titlesmith.runs import Run
from titlesmith.train import monitor


def finetune_run(run: Run, settings: dict, bar: Callable[..., tqdm] = tqdm) -> None:
    """Trains the model of a run, or resumes an interrupted training; in several processes if ``processes`` says so.

    The corpus of the run is built; ``settings`` are the parameters of notebook 03; ``bar`` creates a progress bar. The
    run's record gets ``device``, ``before`` (the model before training, `titlesmith.evaluate.snapshot`), and when
    training stops ``steps``, ``kept_step``, ``stop_reason`` and ``choices``. An interrupted training is an
    InterruptError, and ``stopped`` in the record says how far it came.
    """
    run.update_stage("finetune", stopped="")
    if settings["processes"] > 1:
        from titlesmith.train import distributed

        distributed.launch(run, settings, bar)
    else:
        _finetune(run, settings, True, bar)


def _finetune(run: Run, settings: dict, writes: bool, bar: Callable[..., tqdm] = tqdm) -> None:
    corpus = Corpus(run)
    engine = train.start_engine(run, settings["model"], corpus, settings["seed"], settings["quantize"])
    if writes:
        run.update_stage("finetune", device=engine.device(settings))
        print(f"Training on {engine.device(settings)}.")
    watch = monitor.Monitor(run, settings, writes, bar)

    def measure(engine: train.Engine) -> None:
        """Records the model before training, once."""
        if "before" in run.record("finetune"):
            return
        before = snapshot(engine, corpus, snapshot_documents(corpus, settings), settings["seed"])
        if writes:
            advice = base.advice(settings["model"], before["bits_per_byte"])
            run.update_stage("finetune", before=before, advice=advice)
            print(advice, end="\n" * bool(advice))

    train.finetune(engine, corpus, settings, watch, Probe(corpus, settings), measure)
    if writes:
        save_backend(engine, run)
        kept = monitor.kept_step(monitor.read(watch.history), settings["keep"], engine.step)
        facts = {"steps": engine.step, "kept_step": kept, "stop_reason": watch.reason, "choices": engine.choices}
        run.update_stage("finetune", **facts, peak_memory_bytes=models.peak_memory())


def main(name: str) -> None:
    """Trains in one of several processes; an error of titlesmith is the last line of standard error."""
    from titlesmith.train import distributed

    distributed.join()
    run = Run(name)
    try:
        _finetune(run, run.record("finetune")["settings"], writes=distributed.rank() == 0)
    except TitlesmithError as error:
        sys.exit(f"\n{type(error).__name__}: {' '.join(str(error).split())}")
    distributed.dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
