"""Searches: Optuna (Akiba et al. 2019) chooses the values of the next runs, and stops runs that fall behind.

A trial is a run like any other of a sweep. Its value is a measurement of the finished run. It is pruned when its
validation loss is higher than the median of earlier trials at the same step. The study is rebuilt from the record.
"""

import json
import math
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from titlesmith.errors import DAMAGE, RequestError
from titlesmith.evaluate.report import MEASUREMENTS
from titlesmith.runs import Run
from titlesmith.sweep.file import format_value
from titlesmith.sweep.plan import Plan, Point, record_path
from titlesmith.train import monitor

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 5  # that are not pruned, and whose values are random


class Study:
    """Optuna's study of a search, rebuilt from the sweep's record.

    ``points`` are the runs in the record, ``results`` the record's rows of those that ended, by name. RequestError:
    Optuna is not installed, or the ranges do not have the values of earlier runs.
    """

    def __init__(self, plan: Plan):
        if not find_spec("optuna"):
            raise RequestError("search: needs Optuna: pip install optuna")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan, self._running, self.points, self.results = plan, {}, [], {}
        self._distributions = {key: _distribution(own) for key, own in plan.file.search.ranges.items()}
        seed = plan.points[0].experiment.settings["finetune"]["seed"]
        self._study = optuna.create_study(
            direction="maximize" if MEASUREMENTS[plan.file.search.metric][1] is max else "minimize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        )
        earlier = []
        with suppress(OSError, ValueError):  # no record, or a damaged one
            earlier = json.loads(record_path(plan.name).read_text("utf-8"))["runs"]
        for number, row in enumerate(earlier):
            run, value = Run(row["name"]), row.get("value")
            self.points.append(self._make(number, row["set"]))
            if not run.info or (value is None and row["state"] != "pruned"):  # it is run again with its values
                self._study.enqueue_trial(row["set"])
                continue
            state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
            options = {"distributions": self._distributions, "intermediate_values": dict(_read_validations(run))}
            try:
                trial = optuna.trial.create_trial(state=state, value=value, params=row["set"], **options)
            except ValueError as error:
                raise RequestError(
                    f"search: {run.name} has values outside of the ranges, which have changed ({error}): choose "
                    "another name with --name"
                ) from None
            self._study.add_trial(trial)
            self.results[run.name] = row

    def _make(self, number: int, values: dict) -> Point:
        texts = {k: f"{v:.6g}" if isinstance(v, float) else format_value(v) for k, v in values.items()}
        return self._plan.make(number, texts)

    def ask(self) -> Point | None:
        """The next trial; None if there are enough."""
        waiting = sum(trial.state.name == "WAITING" for trial in self._study.trials)
        if len(self._study.trials) - waiting >= self._plan.file.search.trials:
            return None
        trial = self._study.ask(self._distributions)
        point = self._make(trial.number, trial.params)
        self._running[point.name] = trial
        return point

    def falls_behind(self, run: Run) -> bool:
        """Whether a running trial should be pruned, by its validation losses until now."""
        trial = self._running[run.name]
        known = self._study.trials[trial.number].intermediate_values
        for step, loss in _read_validations(run):
            if step not in known:
                trial.report(loss, step)
        return trial.should_prune()

    def tell(self, run: Run, state: str) -> float | None:
        """Ends a trial, whose run is done, pruned or failed; returns its value, or None."""
        import optuna

        value = measure(run, self._plan.file.search.metric) if state == "done" else None
        kind = "PRUNED" if state == "pruned" else "FAIL" if value is None else "COMPLETE"
        self._study.tell(self._running.pop(run.name), value, optuna.trial.TrialState[kind])
        return value


def measure(run: Run, metric: str) -> float | None:
    """The measurement of a finished run, a name of `MEASUREMENTS`; None if it has none."""
    name = metric.replace("loss.", "perplexity.")
    try:
        value = run.metrics
        for key in name.split("."):
            value = value[key]
        return (float(value) if name == metric else math.log(value)) if math.isfinite(value) else None
    except DAMAGE:
        return None


def _read_validations(run: Run) -> list[tuple[int, float]]:
    """Step and validation loss of each validation of a run, also while it writes them."""
    rows = monitor.read(run / "history.csv")
    return [(int(row["step"]), row["valid_loss"]) for row in rows if row["valid_loss"] is not None]


def _distribution(own: dict) -> "optuna.distributions.BaseDistribution":
    from optuna import distributions

    if "choices" in own:
        return distributions.CategoricalDistribution(own["choices"])
    is_int = isinstance(own["low"], int)
    return (distributions.IntDistribution if is_int else distributions.FloatDistribution)(**own)
