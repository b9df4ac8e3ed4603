"""Ray Tune's schedulers as a sweep's config names them, with what the ledger knows told to them anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import (
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from orchestrator.config.schema import SchedulerName
from orchestrator.sweeps.definition import Definition
from orchestrator.sweeps.engine.ledger import RUNG, Book
from orchestrator.sweeps.engine.trainable import AT, METRIC, metrics_of
from orchestrator.sweeps.space.space import Choice, Parameter, Span, Values

RESAMPLE = 0.25
"""How often PBT draws a value anew instead of changing it a little."""
FACTORS = (0.8, 1.25)
Changed = Callable[[int, int, Values], dict[str, Any]]
"""Called with a trial, the one it takes over from, and its new values; returns its new config."""
GoesOn = Callable[[int, float, dict[str, float]], bool]
"""Called with a trial, the rung that it is at and its metrics; returns whether it goes on at once."""


def make_scheduler(definition: Definition, book: Book, changed: Changed, goes_on: GoesOn) -> TrialScheduler:
    """The scheduler that decides at rungs."""
    settings = definition.settings
    ((metric, mode),) = list(definition.objectives.items())[:1]
    common = {"time_attr": AT, "metric": f"{METRIC}{metric}", "mode": mode}
    name, rung, length = settings.scheduler, settings.rung, definition.length
    if name is SchedulerName.asha:
        return Promotion(goes_on)
    if name is SchedulerName.hyperband:
        return HyperBandScheduler(**common, max_t=max(1, int(length)), reduction_factor=settings.reduction)
    if name is SchedulerName.median:
        median = MedianStoppingRule(**common, grace_period=rung)
        _replay(median, book)
        return median
    if name is SchedulerName.pbt:
        return Population(definition, changed, perturbation_interval=rung, **common)
    return FIFOScheduler()


def _replay(scheduler: TrialScheduler, book: Book) -> None:
    """Tell a scheduler the rungs of trials that are over since an earlier sitting."""
    standing: dict[int, Any] = {}
    for entry in book.order:
        number = entry.get("number", -1)
        if entry["kind"] != RUNG or not book.trials[number].is_over:
            continue
        if number not in standing:
            standing[number] = SimpleNamespace(trial_id=tune_id(number))
            scheduler.on_trial_add(None, standing[number])
        metrics = {f"{METRIC}{name}": float(value) for name, value in entry["metrics"].items()}
        scheduler.on_trial_result(_Nobody(), standing[number], {AT: entry["at"], **metrics})


class _Nobody:
    """Stands for the controller of trials that are over."""

    def get_live_trials(self) -> list[Any]:
        return []


def tune_id(number: int) -> str:
    """What Ray Tune knows a trial by."""
    return f"{number:04d}"


class Promotion(FIFOScheduler):  # type: ignore[misc]
    """Takes the process from a trial that stands at its rung: when that goes on, it is handed out anew, from there."""

    def __init__(self, goes_on: GoesOn) -> None:
        super().__init__()
        self._goes_on = goes_on

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A trial is at a rung."""
        goes_on = self._goes_on(trial.config["number"], result[AT], metrics_of(result))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Population based training whose changes stay within the space, and are plans of their own."""

    def __init__(self, definition: Definition, changed: Changed, **options: Any) -> None:
        # Trials wait for each other at rungs: otherwise their speed would decide who is compared with whom. It wants to
        # know what it may change; what becomes of that is decided below.
        super().__init__(hyperparam_mutations={"version": [0]}, log_config=False, synch=True, **options)
        random.seed(definition.settings.seed)
        self._definition = definition
        self._changed = changed

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        number, source = trial.config["number"], trial_to_clone.config["number"]
        version = trial.config["version"] + 1
        chance = random.Random(f"{self._definition.settings.seed}/{number}/{version}")
        values = explore(self._definition, trial_to_clone.config["values"], chance)
        return self._changed(number, source, values), {}


def explore(definition: Definition, values: Values, chance: random.Random) -> Values:
    """Values a little different, within the space; the same ones when none that differ meet the constraints."""
    parameters = {parameter.key: parameter for parameter in definition.space.parameters}
    for _ in range(100):
        near = {key: _near(parameters[key], value, chance) for key, value in values.items()}
        if definition.space.admits(near):
            return near
    return values


def _near(parameter: Parameter, value: Any, chance: random.Random) -> Any:
    domain = parameter.domain
    if chance.random() < RESAMPLE:
        return domain.at(chance.random())
    if isinstance(domain, Choice):
        place = domain.values.index(value) + chance.choice((-1, 1))
        return domain.values[min(max(place, 0), len(domain.values) - 1)]
    return _within(domain, value * chance.choice(FACTORS))


def _within(domain: Span, value: float) -> float | int:
    value = min(max(value, domain.low), domain.high)
    return round(value) if domain.whole else value
