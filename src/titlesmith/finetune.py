"""The fine-tune stage of a run, and the program of each of several processes: ``python -m titlesmith.finetune RUN``."""

import math
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

RATE_MARGIN = 0.05  # nats a token; the documents before training may be others than those of a validation


def finetune_run(run: Run, settings: dict, bar: Callable[..., tqdm] = tqdm) -> None:
    """Trains the model of a run, or resumes an interrupted training; in several processes if ``processes`` says so.

    The corpus of the run is built; ``settings`` are the parameters of notebook 03; ``bar`` creates a progress bar. The
    run's record gets ``device``, ``before`` (the model before training, `titlesmith.evaluate.snapshot`), and when
    training stops ``steps``, ``kept_step``, ``stop_reason``, ``choices`` and ``advice``. An interrupted training is an
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
            run.update_stage("finetune", before=before)
            advice = base.advice(settings["model"], before["bits_per_byte"])
            print(advice, end="\n" * bool(advice))

    train.finetune(engine, corpus, settings, watch, Probe(corpus, settings), measure)
    if writes:
        save_backend(engine, run)
        rows, before = monitor.read(watch.history), run.record("finetune").get("before", {})
        rate = advise_rate(before.get("perplexity"), rows)
        print(rate, end="\n" * bool(rate))
        advice = filter(None, (base.advice(settings["model"], before.get("bits_per_byte")), rate))
        facts = {"steps": engine.step, "stop_reason": watch.reason, "choices": engine.choices}
        facts |= {"kept_step": monitor.kept_step(rows, settings["keep"], engine.step), "advice": " ".join(advice)}
        run.update_stage("finetune", **facts, peak_memory_bytes=models.peak_memory())


def advise_rate(before: float | None, rows: list[dict]) -> str:
    """A sentence if the first validation, in the first epoch, was worse than ``before``, the model's perplexity then.

    Later in a training that is memorizing; so early, the steps are too large for what the model knows. Gemma 3 270M at
    a rate of 0.0002 rose from 2.71 to 2.93 nats a token in 75 steps, and at 0.00005 it fell. Else the text is empty.
    """
    first = next((row for row in rows if row["valid_loss"] is not None), None)
    if not before or not first or first["epoch"] >= 1 or first["valid_loss"] <= math.log(before) + RATE_MARGIN:
        return ""
    return (
        f"The validation at step {first['step']:.0f} was worse than before training, {first['valid_loss']:.2f} nats a "
        f"token after {math.log(before):.2f}: a lower finetune.learning_rate suits this model"
    )


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
