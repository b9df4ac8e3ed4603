"""What a sweep is: its space, how it is searched, by which metric, and what has to go together for that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from orchestrator.config.schema import JobSpec, LauncherName, MonitorMode, SchedulerName, SearchName, Sweep
from orchestrator.config.variants import Variants
from orchestrator.errors import ConfigError, PlanError
from orchestrator.sweeps.space.space import Space, Span, Values

DEFAULT_TRIALS = 20
MAX_GRID = 100_000
OWN_METRICS = ("parameters", "seconds")
"""What a trial can be judged by beside the Task's metrics."""
FINE = (SchedulerName.hyperband, SchedulerName.median, SchedulerName.pbt)
"""These decide at each multiple of sweep.rung; asha at its powers."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A sweep as it was asked for, checked."""

    overrides: tuple[str, ...]
    """As they were given: with the config they say all of it."""
    config_name: str
    config_dir: str | None
    settings: Sweep
    spec: JobSpec = field(repr=False)
    """The job without any trial's values."""
    base: dict[str, Any] = field(repr=False)
    """The same as plain data."""
    space: Space
    variants: Variants = field(repr=False)
    search: SearchName
    trials: int

    @property
    def objectives(self) -> dict[str, str]:
        """The metrics that trials are judged by, each `min` or `max`."""
        if self.settings.objectives:
            pairs = (objective.partition(":") for objective in self.settings.objectives)
            return {metric.strip(): mode.strip() for metric, _, mode in pairs}
        monitor = self.spec.job.monitor
        metric = self.settings.metric or monitor.metric
        fallback = MonitorMode.min if self.settings.metric in OWN_METRICS else monitor.mode
        return {metric: (self.settings.mode or fallback).value}

    @property
    def length(self) -> float:
        """How long a whole training is: epochs, or steps where the job says steps."""
        return self.spec.job.epochs or self.spec.job.steps or 0

    @property
    def unit(self) -> str:
        """What `length` and rungs count."""
        return "epochs" if self.spec.job.epochs else "steps"

    @property
    def rungs(self) -> list[int]:
        """Where trials pause for a decision, before their end."""
        first, factor = self.settings.rung, self.settings.reduction
        if self.settings.scheduler is SchedulerName.asha:
            powers = (first * factor**number for number in range(64))
            return [rung for rung in powers if rung < self.length]
        if self.settings.scheduler in FINE:
            return list(range(first, -int(-self.length // 1), first))
        return []

    @property
    def digest(self) -> str:
        """Equal for sweeps whose trials would be the same."""
        chosen = {"search": self.search.value, "scheduler": self.settings.scheduler.value, "seed": self.settings.seed}
        said = {"space": self.space.to_dict(), "base": self.base, "objectives": self.objectives, **chosen}
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def define(overrides: Sequence[str], config_name: str = "config", config_dir: str | None = None) -> Definition:
    """Read a sweep off a command line, or say what is wrong with it."""
    from orchestrator.sweeps.space import grammar

    fixed, swept = grammar.split(overrides)
    variants = Variants(fixed, config_name, config_dir)
    loaded = variants.load()
    settings = loaded.spec.sweep
    space = grammar.read_space(swept, settings, variants)
    search = settings.search or _search(space, settings)
    definition = Definition(
        overrides=tuple(overrides),
        config_name=config_name,
        config_dir=config_dir,
        settings=settings,
        spec=loaded.spec,
        base=loaded.resolved,
        space=space,
        variants=variants,
        search=search,
        trials=_trials(space, settings, search),
    )
    _check(definition)
    return definition


def _search(space: Space, settings: Sweep) -> SearchName:
    return SearchName.grid if space.is_finite and settings.trials is None else SearchName.tpe


def _trials(space: Space, settings: Sweep, search: SearchName) -> int:
    if search is not SearchName.grid:
        return settings.trials or DEFAULT_TRIALS
    endless = [parameter.key for parameter in space.parameters if isinstance(parameter.domain, Span)]
    if endless:
        raise PlanError(
            f"sweep.search=grid needs a finite space, and {endless[0]} has any number between two.",
            f"Name its values ({endless[0]}=choice(...) or range(...)), or set sweep.search=tpe.",
        )
    size = sum(1 for _ in islice(space.grid(), MAX_GRID + 1))
    if not size:
        raise PlanError("No trial of the grid meets sweep.constraints.", "Loosen them, or widen the space.")
    if size > MAX_GRID and settings.trials is None:
        raise PlanError(f"The grid has more than {MAX_GRID} trials.", "Set sweep.trials, or sweep.search=tpe.")
    return min(size, settings.trials or size)


def grid_values(definition: Definition) -> list[Values]:
    """All trials of a grid, in order."""
    return list(islice(definition.space.grid(), definition.trials))


# --- what has to go together -----------------------------------------------------------------------------------------


def _check(definition: Definition) -> None:
    if definition.spec.cluster.launcher is not LauncherName.ray:
        raise PlanError(
            "Sweeps run on Ray, but cluster.launcher=torchrun.", "Set cluster=local, or cluster=existing for a cluster."
        )
    if definition.spec.script is not None and definition.settings.scheduler is not SchedulerName.none:
        raise PlanError(
            f"sweep.scheduler={definition.settings.scheduler.value} pauses trials at rungs, and "
            f"script={definition.spec.script} trains without them.",
            "Set sweep.scheduler=none.",
        )
    if len(definition.objectives) > 1 and definition.settings.scheduler is not SchedulerName.none:
        raise PlanError(
            f"sweep.scheduler={definition.settings.scheduler.value} ends trials by one metric, and sweep.objectives "
            f"has {len(definition.objectives)}.",
            "Set sweep.scheduler=none, or name one sweep.metric.",
        )
    if len(definition.objectives) > 1 and definition.search is SearchName.cmaes:
        raise PlanError("sweep.search=cmaes takes one metric, not several.", "Set sweep.search=tpe or gp.")
    if definition.settings.scheduler is not SchedulerName.none:
        _check_rungs(definition)
    if definition.settings.scheduler is SchedulerName.pbt:
        _check_population(definition)
    if definition.settings.gpu_hours and not definition.spec.cluster.gpus_per_worker:
        raise PlanError(
            "sweep.gpu_hours limits GPU hours, but cluster.gpus_per_worker gives trials no GPU.",
            "Set cluster.gpus_per_worker=1, or sweep.hours.",
        )


def _check_rungs(definition: Definition) -> None:
    scheduler, rung = definition.settings.scheduler.value, definition.settings.rung
    swept = {"job.epochs", "job.steps", "job.evaluate.epochs", "job.evaluate.steps"}
    wrong = [parameter.key for parameter in definition.space.parameters if parameter.key in swept]
    if wrong:
        raise PlanError(
            f"sweep.scheduler={scheduler} compares trials at equal times, so that {wrong[0]} cannot differ.",
            "Set sweep.scheduler=none, or give it one value.",
        )
    if rung >= definition.length:
        raise PlanError(
            f"sweep.rung={rung} is not before the end of the training ({definition.length:g} {definition.unit}).",
            f"Train for longer (job.{definition.unit}=...), or set sweep.scheduler=none.",
        )
    every = getattr(definition.spec.job.evaluate, definition.unit)
    if every is None or rung % every:
        given = "null" if every is None else every
        raise PlanError(
            f"sweep.scheduler={scheduler} judges trials every {rung} {definition.unit} (sweep.rung), but "
            f"job.evaluate.{definition.unit}={given}.",
            f"Set job.evaluate.{definition.unit}={rung}, or sweep.rung to a multiple of it.",
        )


def _check_population(definition: Definition) -> None:
    groups = [parameter.key for parameter in definition.space.parameters if parameter.is_group or parameter.when]
    if groups:
        raise PlanError(
            f"sweep.scheduler=pbt changes settings while trials train, which {groups[0]} cannot be.",
            "Give it one value, or set sweep.scheduler=asha.",
        )
    model = [parameter.key for parameter in definition.space.parameters if parameter.key.startswith(("model.", "data"))]
    if model:
        raise PlanError(
            f"sweep.scheduler=pbt hands weights from one trial to another, so that {model[0]} cannot differ.",
            "Give it one value, or set sweep.scheduler=asha.",
        )
    if definition.trials < 4:
        raise ConfigError(f"sweep.scheduler=pbt needs 4 trials or more, not {definition.trials}.", "Set sweep.trials.")
