"""Searches: Optuna (Akiba et al. 2019) chooses the values of the next runs, and stops runs that fall behind.

A trial is a run like any other of a sweep. Its value is a measurement of the finished run. It is pruned when its
validation loss is higher than the median of earlier trials at the same step. The study is rebuilt from the record.
"""

import csv
import json
import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from titlesmith.errors import DAMAGE, RequestError
from titlesmith.evaluate.report import MEASUREMENTS
from titlesmith.runs import Run
from titlesmith.sweep.file import check_measurement, format_value

if TYPE_CHECKING:
    import optuna

FORM = "{trials: 20, metric: perplexity.valid, ranges: {finetune.learning_rate: {low: 1e-5, high: 1e-3, log: true}}}"
STARTUP_TRIALS = 5  # that are not pruned, and whose values are random


@dataclass(frozen=True)
class Search:
    """A search: number of trials, measurement to optimize, and for each key choices, or ends of a range.

    Ranges have ``low``, ``high``, ``log`` (whether values are spaced by factors) and ``is_int``.
    """

    trials: int
    metric: str
    ranges: dict[str, dict]

    @classmethod
    def read(cls, content: dict, where: str) -> "Search":
        """The ``search:`` of a sweep file, a tree of texts (RequestError)."""
        try:
            trials, metric, ranges = (
                int(content["trials"]),
                content.get("metric", "perplexity.valid"),
                content["ranges"],
            )
            read = {key: _read_range(values) for key, values in ranges.items()}
            if trials < 1 or not read or content.keys() - {"trials", "metric", "ranges"}:
                raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise RequestError(f"{where}: search: needs {FORM}, or {{choices: [1, 2]}}") from None
        check_measurement(metric, f"{where}: search")
        if not MEASUREMENTS[metric][1]:
            raise RequestError(f"{where}: search: neither low nor high values of {metric} are better; choose another")
        return cls(trials, metric, read)

    def ends(self) -> list[dict[str, str]]:
        """Combinations that together have every choice and both ends of every range, as texts."""
        values = {key: r.get("choices") or [r["low"], r["high"]] for key, r in self.ranges.items()}
        size = max(map(len, values.values()))
        return [{key: _text(own[min(i, len(own) - 1)]) for key, own in values.items()} for i in range(size)]

    def value(self, run: Run) -> float | None:
        """The measurement of a finished run; None if it has none."""
        name = self.metric.replace("loss.", "perplexity.")
        try:
            value = run.metrics
            for key in name.split("."):
                value = value[key]
            return (math.log(value) if name != self.metric else float(value)) if math.isfinite(value) else None
        except DAMAGE:
            return None


class Study:
    """Optuna's study of a search; ``earlier`` are the runs in the sweep's record.

    RequestError: Optuna is not installed, or the ranges do not have the values of earlier runs.
    """

    def __init__(self, search: Search, seed: int, earlier: list[dict]):
        if not find_spec("optuna"):
            raise RequestError("search: needs Optuna: pip install optuna")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search, self._running = search, {}
        self._study = optuna.create_study(
            direction="maximize" if MEASUREMENTS[search.metric][1] is max else "minimize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        )
        # Trials that ended stay; the others are run again with their values
        for run in earlier:
            value, params = run.get("value"), {key: run["set"][key] for key in search.ranges}
            losses = dict(read_validations(Run(run["name"])))
            state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
            kinds = {key: _distribution(own) for key, own in search.ranges.items()}
            options = {"params": params, "distributions": kinds, "intermediate_values": losses}
            try:
                trial = optuna.trial.create_trial(state=state, value=value, **options)
            except ValueError as error:
                raise RequestError(
                    f"search: {run['name']} has values outside of the ranges, which have changed ({error}): choose "
                    "another name with --name"
                ) from None
            if run["state"] == "waiting":
                self._study.enqueue_trial(params)
            else:
                self._study.add_trial(trial)

    def ask(self) -> tuple[int, dict[str, str]] | None:
        """Number and values of the next trial, as texts; None if there are enough."""
        if len(self._study.trials) - self._waiting() >= self.search.trials:
            return None
        trial = self._study.ask({key: _distribution(own) for key, own in self.search.ranges.items()})
        self._running[trial.number] = trial
        return trial.number, {key: _text(value) for key, value in trial.params.items()}

    def _waiting(self) -> int:
        return sum(trial.state.name == "WAITING" for trial in self._study.trials)

    def falls_behind(self, number: int, run: Run) -> bool:
        """Whether a running trial should be pruned, by its validation losses until now."""
        trial = self._running[number]
        known = self._study.trials[number].intermediate_values
        for step, loss in read_validations(run):
            if step not in known:
                trial.report(loss, step)
        return trial.should_prune()

    def tell(self, number: int, value: float | None, state: str) -> None:
        """Ends a trial, with its value or without one: ``pruned`` or ``failed``."""
        import optuna

        kinds = {"pruned": optuna.trial.TrialState.PRUNED, "failed": optuna.trial.TrialState.FAIL}
        trial = self._running.pop(number)
        if value is None:
            self._study.tell(trial, state=kinds.get(state, optuna.trial.TrialState.FAIL))
        else:
            self._study.tell(trial, value)


def read_validations(run: Run) -> list[tuple[int, float]]:
    """Step and validation loss of each validation of a run, also while it writes them."""
    try:
        lines = (run / "history.csv").read_text("utf-8").rpartition("\n")[0].splitlines()
        return [(int(row["step"]), float(row["valid_loss"])) for row in csv.DictReader(lines) if row["valid_loss"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _read_range(values: dict) -> dict:
    if "choices" in values:
        return {"choices": [json.loads(v) if _is_number(v) else v for v in values["choices"]]}
    low, high, is_log = values["low"], values["high"], str(values.get("log", "false")).lower() == "true"
    is_int = all(str(end).lstrip("-").isdecimal() for end in (low, high))
    kind = int if is_int else float
    if values.keys() - {"low", "high", "log"} or not kind(low) < kind(high) or (is_log and kind(low) <= 0):
        raise ValueError
    return {"low": kind(low), "high": kind(high), "log": is_log}


def _is_number(text: object) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except (TypeError, ValueError):
        return False


def _distribution(own: dict) -> "optuna.distributions.BaseDistribution":
    from optuna import distributions

    if "choices" in own:
        return distributions.CategoricalDistribution(own["choices"])
    is_int = isinstance(own["low"], int)
    return (distributions.IntDistribution if is_int else distributions.FloatDistribution)(**own)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else format_value(value)
