"""Events of a run, as lines of JSON in run storage: one growing file per writer, read together.

Workers write them and go on; the driver reads them, shows progress and passes metrics to MLflow. So tracking never
stands in the way of a training step, and everything that happened can be read without any server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator import paths
from orchestrator.storage import Store

METRICS = "metrics"
"""`metrics` of one `step`, named as MLflow shows them: train/loss, val/accuracy, system/node-0/cpu_percent."""
STARTED = "started"
"""The workers are there and know how long training is: world_size, total_steps, steps_per_epoch, start_step."""
CHECKPOINT = "checkpoint"
"""A checkpoint was committed: name, step, and whether it is the best so far."""
EVALUATED = "evaluated"
"""A split was evaluated: split, step, metrics."""
NOTE = "note"
"""Something a person should know: message."""
FINISHED = "finished"
"""Training ended in order: reason (done, early_stopping, stopped), step, metrics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened."""

    kind: str
    time: float
    attempt: int
    step: int | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        """As one line of JSON."""
        record = {"kind": self.kind, "time": self.time, "attempt": self.attempt, "step": self.step, **self.data}
        return json.dumps(record, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Event:
        """Read what `to_line` wrote."""
        record = json.loads(line)
        known = {key: record.pop(key) for key in ("kind", "time", "attempt", "step")}
        return cls(**known, data=record)


class EventWriter:
    """Writes one writer's events: at once on file systems, gathered for `interval_s` on object stores."""

    def __init__(
        self, store: Store, writer: str, attempt: int, clock: Callable[[], float] = time.time, interval_s: float = 5.0
    ) -> None:
        self._store = store
        self._name = f"{paths.EVENTS}/{writer}.jsonl"
        self._attempt = attempt
        self._clock = clock
        self._interval = interval_s if paths.is_url(store.root) else 0.0
        self._pending = ""
        self._written = clock()

    def emit(self, kind: str, step: int | None = None, **data: Any) -> None:
        """Record one event."""
        now = self._clock()
        self._pending += Event(kind=kind, time=now, attempt=self._attempt, step=step, data=data).to_line()
        if now - self._written >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._pending:
            self._store.append(self._name, self._pending)
            self._pending = ""
            self._written = self._clock()


class EventReader:
    """Reads the events of all writers as they come."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursors: dict[str, int] = {}

    def poll(self) -> list[Event]:
        """The events since the last call, in order of their time."""
        events: list[Event] = []
        for name in self._store.list(paths.EVENTS):
            text, self._cursors[name] = self._store.tail(f"{paths.EVENTS}/{name}", self._cursors.get(name, 0))
            events.extend(Event.from_line(line) for line in text.splitlines())
        return sorted(events, key=lambda event: event.time)
