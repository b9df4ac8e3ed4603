"""One sitting of a sweep: what is done with each trial, whoever schedules them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator import paths
from orchestrator.config.schema import SchedulerName
from orchestrator.foundation.storage import open_store
from orchestrator.plans.types import Plan
from orchestrator.sweeps.definition import Definition
from orchestrator.sweeps.engine import trial_run
from orchestrator.sweeps.engine.ledger import (
    BEGUN,
    CHANGED,
    ENDED,
    HALVED,
    PAUSED,
    RUNG,
    SWEEP,
    TRIAL,
    Ledger,
    State,
    Trial,
)
from orchestrator.sweeps.engine.trial_run import NEVER_REPORTED
from orchestrator.sweeps.record import SweepRecord
from orchestrator.sweeps.search import search as searches
from orchestrator.sweeps.search.halving import Halving
from orchestrator.sweeps.space.space import Values
from orchestrator.sweeps.trials import Planner

LOST = 3
"""Exit code of an engine whose Ray is gone."""
ASKED = "a person asked to stop"


class Conductor:
    """One sitting of a sweep: what is done with each trial, whoever schedules them."""

    def __init__(self, record: SweepRecord, definition: Definition) -> None:
        self.record = record
        self.definition = definition
        self.planner = Planner(definition)
        self.store = record.store
        self.ledger = Ledger(self.store)
        self.ledger.read()
        self.search = searches.make_search(
            definition.search,
            definition.space,
            definition.settings.seed,
            list(definition.objectives.values()),
            definition.trials,
        )
        searches.replay(self.book, self.search, self.scores)
        self._package = record.package
        self._halving = _halving(definition)
        if self._halving:
            self._halving.replay(self.book)
        self._left = [trial for trial in self.book.unfinished if trial.state is not State.paused]
        self._out: set[int] = set()
        """Trials that were handed out, and neither are over nor stand at a rung."""
        self._lost_leaders: Counter[int] = Counter()
        """How often the process that leads a trial was lost before it had begun with it, in this sitting."""
        self.fatal = ""
        """Why all further trials would fail as well."""
        self._next = max(self.book.trials, default=-1) + 1

    @property
    def book(self) -> Any:
        """What became of the trials so far."""
        return self.ledger.book

    def scores(self, metrics: Mapping[str, float]) -> list[float]:
        """The objectives' values."""
        return [float(metrics.get(name, float("nan"))) for name in self.definition.objectives]

    # --- trials ------------------------------------------------------------------------------------------------------
    def has_more(self) -> bool:
        """Whether there are trials to begin or to go on with, or may be when others have come to their rungs."""
        if self._left or self._next < self.definition.trials:
            return True
        return bool(self._halving and (self._out or self._promoted() is not None))

    @property
    def is_incomplete(self) -> bool:
        """Whether a further sitting would have something to do."""
        return bool(self.book.unfinished) or self._next < self.definition.trials

    def next(self) -> tuple[Trial, Plan] | None:
        """The next trial to carry out: those of an earlier sitting first, new ones last."""
        if self._left:
            found = self._take_up(self._left.pop(0))
        elif (number := self._promoted()) is not None:
            found = self._take_up(self.book.trials[number])
        elif self._next < self.definition.trials:
            found = self._choose()
        else:
            return None
        self._out.add(found[0].number)
        return found

    def _take_up(self, trial: Trial) -> tuple[Trial, Plan]:
        plan = self.planner.plan(trial.values)
        root = self.record.trial_root(trial.number)
        if not open_store(root).exists(paths.RECORD):
            trial_run.create(self.record.root, self.record.name, trial.number, plan)
        elif self.definition.settings.scheduler is SchedulerName.pbt:
            trial_run.change(root, plan)  # a change that did not come into the ledger did not happen
        if self._halving:
            self._halving.leave(trial.number)
        return trial, plan

    def _promoted(self) -> int | None:
        """The trial at a rung whose turn it is; if all others are through and none is trained in full, the best."""
        if self._halving is None:
            return None
        through = not self._out and not self._left and self._next >= self.definition.trials
        return self._halving.promoted(anyone=through and not self.book.count(State.finished))

    def _choose(self) -> tuple[Trial, Plan]:
        number = self._next
        self._next += 1
        values = self.search.ask(number)
        plan = self.planner.plan(values)
        trial_run.create(self.record.root, self.record.name, number, plan)
        # The line comes last: a trial that the ledger has can be carried out.
        overrides = self.definition.space.overrides(values)
        self.ledger.write(TRIAL, number=number, values=values, overrides=overrides, seed=plan.seed)
        return self.book.trials[number], plan

    def put_back(self, trial: Trial) -> None:
        """Let a trial be the next again."""
        self._out.discard(trial.number)
        self._left.insert(0, trial)

    def try_again(self, number: int) -> bool:
        """Let a trial whose leading process was lost be the next again; False: that happened too often."""
        self._lost_leaders[number] += 1
        if self._lost_leaders[number] > self.definition.settings.retries:
            return False
        self.put_back(self.book.trials[number])
        return True

    def config(self, trial: Trial) -> dict[str, Any]:
        """What the process that carries a trial out is told."""
        settings = self.definition.settings
        population = settings.scheduler is SchedulerName.pbt
        return {
            "sweep": self.record.root,
            "root": self.record.trial_root(trial.number),
            "number": trial.number,
            "version": trial.version,
            "values": trial.values,
            "objectives": list(self.definition.objectives),
            "rungs": self.definition.rungs,
            "length": self.definition.length,
            "reached": trial.at,
            "retries": settings.retries,
            "package": self._package,
            "smaller": [plan.to_dict() for plan in self._smaller(trial)],
            "newest_counts": population,
            "exchanges": population,
        }

    def _smaller(self, trial: Trial) -> Iterator[Plan]:
        """The plans that a trial falls back on, one after the other, when it runs out of memory."""
        plan: Plan | None = self.planner.plan(trial.values) if self.definition.settings.halvings else None
        for _ in range(self.definition.settings.halvings):
            if plan := plan and self.planner.halved(trial.values, plan):
                yield plan

    def halved(self, number: int, micro_batch: int) -> None:
        """A trial goes on with a smaller micro batch."""
        if self.book.trials[number].micro_batch != micro_batch:
            self.ledger.write(HALVED, number=number, micro_batch=micro_batch)

    def changed(self, number: int, source: int, values: Values) -> dict[str, Any]:
        """Let a trial go on with other values and another trial's weights; returns its new config."""
        trial = self.book.trials[number]
        trial_run.change(self.record.trial_root(number), self.planner.plan(values))
        overrides = self.definition.space.overrides(values)
        self.ledger.write(CHANGED, number=number, source=source, at=trial.at, values=values, overrides=overrides)
        if isinstance(self.search, searches.OptunaSearch):
            self.search.forget(number)
        return self.config(self.book.trials[number])

    def begun(self, number: int) -> None:
        """A process has taken a trial up."""
        if self.book.trials[number].state in (State.waiting, State.paused):
            self.ledger.write(BEGUN, number=number)

    def reached(self, number: int, at: float, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """A trial is at a rung."""
        self.ledger.write(RUNG, number=number, at=at, step=step, metrics=dict(metrics), seconds=seconds)
        self.search.rung(number, at, self.scores(metrics))

    def goes_on(self, number: int, at: float, metrics: Mapping[str, float]) -> bool:
        """Whether a trial at a rung goes on at once."""
        return self._halving is None or self._halving.reached(number, at, metrics)

    def left_out(self, number: int) -> None:
        """The scheduler took a trial from its process, at a rung."""
        if self._halving is None:
            self._prune(number)
            return
        self._out.discard(number)
        self.ledger.write(PAUSED, number=number)
        self.search.pause(number)
        for behind in self._halving.hopeless():
            self._prune(behind)

    def _prune(self, number: int) -> None:
        trial = self.book.trials[number]
        self.ended(number, State.pruned, trial.metrics, trial.seconds)

    def prune_all(self) -> None:
        """No trial that stands at a rung will go on."""
        for number in self._halving.standing if self._halving else ():
            self._prune(number)

    def ended(self, number: int, state: State, metrics: Mapping[str, float], seconds: float, error: str = "") -> None:
        """A trial is over."""
        self._out.discard(number)
        if self._halving:
            self._halving.leave(number)
        self.ledger.write(ENDED, number=number, state=state.value, metrics=dict(metrics), seconds=seconds, error=error)
        if error.startswith(NEVER_REPORTED):
            self.fatal = (
                f"{error[0].upper()}{error[1:]}.\nName one of them: sweep.metric=..., or job.monitor.metric=..."
            )
        scores = None if state is State.failed else self.scores(metrics)
        self.search.end(number, scores, pruned=state is State.pruned)

    def lost(self, reason: str) -> None:
        """End at once, since there is no Ray any more, and Ray Tune would wait for it."""
        self.ledger.write(SWEEP, state="failed", message=reason)
        print(reason, flush=True)
        os._exit(LOST)

    # --- the end -----------------------------------------------------------------------------------------------------
    def reason_to_end(self) -> str:
        """Why the sweep should end before all trials are done; empty: it should not."""
        settings, book = self.definition.settings, self.book
        if self.fatal or self.store.exists(paths.STOP):
            return self.fatal or ASKED
        spent_h = (book.earlier_s + time.time() - book.began) / 3600
        if settings.hours and spent_h >= settings.hours:
            return f"sweep.hours={settings.hours:g} are over"
        failed = book.count(State.failed)
        if settings.max_failed and failed >= settings.max_failed:
            self.fatal = f"{failed} trials failed, which is sweep.max_failed."
            return self.fatal
        gpu_h = sum(trial.seconds for trial in book.trials.values()) * self.record.gpus / 3600
        if settings.gpu_hours and gpu_h >= settings.gpu_hours:
            return f"sweep.gpu_hours={settings.gpu_hours:g} are used up"
        return self._target_reached()

    def _target_reached(self) -> str:
        target = self.definition.settings.target
        if target is None:
            return ""
        (metric, mode), *_ = self.definition.objectives.items()
        for trial in self.book.trials.values():
            value = trial.metrics.get(metric)
            if value is not None and (value <= target if mode == "min" else value >= target):
                return f"trial {trial.number} reached sweep.target={target:g} ({metric} {value:.6g})"
        return ""


def _halving(definition: Definition) -> Halving | None:
    settings = definition.settings
    if settings.scheduler is not SchedulerName.asha:
        return None
    ((metric, mode),) = definition.objectives.items()
    return Halving(definition.rungs, settings.reduction, definition.trials, metric, mode)
