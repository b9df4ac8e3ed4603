"""The run of one trial: the same folder that a single training has, launch after launch.

A rung is a checkpoint: a trial trains up to a rung, saves and returns, and continues by starting from there. So
pausing, ending early, taking over weights and resuming after a kill are one thing, and a trial that pauses equals one
that does not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator import paths
from orchestrator.config.schema import MonitorMode
from orchestrator.config.spec import spec_from_dict
from orchestrator.foundation.storage import open_store
from orchestrator.plans.types import Plan
from orchestrator.records import events, runs
from orchestrator.records.events import Event, EventReader
from orchestrator.records.failures import by_weight
from orchestrator.records.runs import Attempt, RunRecord, Status
from orchestrator.runtime.worker.context import Launch
from orchestrator.runtime.worker.script import script
from orchestrator.sweeps.record import TRIALS, trial_id

VAL, TRAIN = "val/", "train/"
NEVER_REPORTED = "the metric "
"""What the error of a trial begins with that was to be judged by a metric which there is not."""


def create(root: str, name: str, number: int, plan: Plan, clock: Callable[[], float] = time.time) -> None:
    """Make the folder of a trial."""
    run_id = trial_id(name, number)
    record = RunRecord(
        id=run_id,
        job=plan.job,
        created=clock(),
        status=Status.created,
        root=f"{root}/{TRIALS}/{run_id}",
        project=str(paths.project_dir()),
        plan_digest=plan.digest,
    )
    record.store.write(paths.PLAN, plan.to_json())
    record.save()


def change(root: str, plan: Plan) -> None:
    """Let a trial go on by another plan, from its next launch on."""
    open_store(root).write(paths.PLAN, plan.to_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """What a trial has reached at the end of a launch."""

    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """Validation metrics without `val/`, and our own `parameters` and `seconds`."""
    finished: bool = False
    stopped: bool = False
    """It saved and ended because it was told to."""


class TrialRun:
    """A trial's folder, as its workers' launches fill it."""

    def __init__(self, root: str, *, newest_counts: bool = False, package: str = "") -> None:
        """`newest_counts`: the last evaluation speaks for the trial, even where the best checkpoint is kept.
        `package`: where its project lies, if that has to be made ready on the node.
        """
        self._store = open_store(root)
        self._newest_counts = newest_counts
        self._package = package
        self.record = runs.read(self._store)
        self.plan = self.record.plan
        self._spec = spec_from_dict(self.plan.spec)
        self._reader = EventReader(self._store)
        self._evaluations: list[Event] = []
        self._reported: dict[str, float] = {}
        self._last: Event | None = None
        self._parameters = 0.0
        self._trained: dict[int, tuple[float, float]] = {}
        self._take(self._reader.poll())

    def begin(self, pause_at: float | None) -> Launch:
        """Begin a further launch."""
        attempt = Attempt(
            number=len(self.record.attempts) + 1,
            started=time.time(),
            world_size=self.plan.preferred.world_size,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._store.remove(paths.STOP)
        self.record.attempts.append(attempt)
        self.record.status = Status.running
        self.record.save()
        launch = Launch(
            run_id=self.record.id,
            attempt=attempt.number,
            root=self.record.root,
            project=self.record.project,
            world_size=self.plan.preferred.world_size,
            plan=self.plan.to_dict(),
            package=self._package,
            pause_at=pause_at,
            keeps_data=True,
        )
        return launch if self._spec.script is None else dataclasses.replace(launch, entry=script.ENTRY)

    def change(self, plan: Plan) -> None:
        """Let further launches go by another plan, in whatever process they are."""
        change(self.record.root, plan)
        self.plan = plan

    def end(self, error: str = "") -> Reached:
        """Note how the launch ended, and say what was reached."""
        self._last = None
        self._take(self._reader.poll())
        attempt, record = self.record.attempts[-1], self.record
        reason = self._last.data["reason"] if self._last else ""
        finished = bool(reason) and reason != "stopped" and not error
        record.status = Status.failed if error else Status.finished if finished else Status.stopped
        attempt.ended, attempt.status, attempt.error = time.time(), record.status, error
        attempt.last_step = record.step
        if finished and self._last:
            record.final_metrics = self._last.data["metrics"]
        record.save()
        return Reached(
            step=record.step, metrics=self.metrics(), finished=finished, stopped=reason == "stopped" and not error
        )

    def close(self, status: Status) -> None:
        """Note what became of the trial as a whole."""
        self.record.status = status
        self.record.save()

    @property
    def seconds(self) -> float:
        """How long its workers trained, without the time that they took to start."""
        return sum(last - first for first, last in self._trained.values())

    def failure(self) -> str:
        """The worker's exception that explains the others of the last launch, in one line; empty when none is known."""
        prefix = f"attempt-{len(self.record.attempts)}-"
        names = [name for name in self._store.list(paths.FAILURES) if name.startswith(prefix)]
        first = next(iter(by_weight(json.loads(self._store.read(f"{paths.FAILURES}/{name}")) for name in names)), None)
        if first is None:
            return ""
        where = f" ({first['where']})" if first.get("where") else ""
        return f"{first['type']}: {' '.join(first['message'].split())}{where}"

    def metrics(self) -> dict[str, float]:
        """The validation metrics that speak for the trial so far; of a script the last that it reported of each."""
        own = {"parameters": self._parameters, "seconds": self.seconds}
        chosen = self._chosen()
        found = chosen.data["metrics"] if chosen else self._reported
        said = {name.removeprefix(TRAIN): value for name, value in found.items() if not name.startswith(VAL)}
        said |= {name.removeprefix(VAL): value for name, value in found.items() if name.startswith(VAL)}
        return said | own

    def _chosen(self) -> Event | None:
        if not self._evaluations:
            return None
        monitor, keeps_best = self._spec.job.monitor, self._spec.checkpoint.best and not self._newest_counts
        key = f"{VAL}{monitor.metric}"
        known = [event for event in self._evaluations if math.isfinite(event.data["metrics"].get(key, math.nan))]
        if not (keeps_best and known):
            return self._evaluations[-1]
        best = min if monitor.mode is MonitorMode.min else max
        return best(known, key=lambda event: event.data["metrics"][key])

    def _take(self, found: list[Event]) -> None:
        for event in found:
            if event.step is not None:
                self.record.step = event.step
            began, _ = self._trained.get(event.attempt, (event.time, event.time))
            self._trained[event.attempt] = (began, event.time)
            if event.kind == events.STARTED:
                self._parameters = float(event.data["parameters"] or 0)
                if self.record.attempts and event.attempt == self.record.attempts[-1].number:
                    self.record.attempts[-1].first_step = event.step
            elif event.kind == events.METRICS and self._spec.script is not None:
                self._reported.update(event.data["metrics"])
            elif event.kind == events.EVALUATED and event.data["split"] == "val":
                self._evaluations.append(event)
            elif event.kind == events.CHECKPOINT:
                self.record.last_checkpoint = event.data["name"]
                if event.data["best"]:
                    self.record.best_checkpoint = event.data["name"]
            elif event.kind == events.FINISHED:
                self._last = event
