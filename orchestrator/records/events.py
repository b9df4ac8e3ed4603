"""Events of a run, as lines of JSON in run storage: one growing file per writer, read together.

Workers write them and go on; the driver reads them, shows progress and passes metrics to MLflow. So tracking never
stands in the way of a training step, and everything that happened can be read without any server.

JSON has no NaN and no infinity. Where a metric is one, the files say it as a word ("NaN", "Infinity", "-Infinity"), as
protobuf's JSON does, so that any reader of JSON can read them; we read the words back as numbers.

They are used in place of `ray.train.report` (Ray 2.60): its queue holds one report, and its controller empties it when
it looks, every 2 s by default, so a worker that reports often waits. Events also work without Ray.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import Store

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
RESTART = "restart"
"""A further attempt trains, from `step`: cause (lost, exception, room, leaving), message, world_size, seconds."""
WAITING = "waiting"
"""The driver waits for room: message, hint, and where it is known what binds, the nodes, and who holds what of them."""
PLACED = "placed"
"""The workers have their places: `nodes`, the name of a node for each rank."""
FINISHED = "finished"
"""Training ended in order: reason (done, early_stopping, stopped), step, metrics."""


def in_words(value: Any) -> Any:
    """The same plain data with words for the numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: in_words(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_words(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def metrics_from(data: Mapping[str, float | str]) -> dict[str, float]:
    """Metrics as numbers again."""
    return {name: float(value) for name, value in data.items()}


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
        return json.dumps(in_words(record), separators=(",", ":"), allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Event:
        """Read what `to_line` wrote."""
        record = json.loads(line)
        known = {key: record.pop(key) for key in ("kind", "time", "attempt", "step")}
        if "metrics" in record:
            record["metrics"] = metrics_from(record["metrics"])
        return cls(**known, data=record)


class Emitter(Protocol):
    """Takes the events of a worker."""

    def emit(self, kind: str, step: int | None = None, **data: Any) -> None:
        """Record one event."""

    def flush(self) -> None:
        """See to it that all events taken so far are in run storage."""

    def close(self) -> None:
        """Flush, and take no more."""


class EventWriter:
    """Writes one writer's events: at once on file systems, metrics gathered for `interval_s` on object stores.

    An object store that does not answer for a while is no reason to end a training: events wait for the next write.
    """

    def __init__(
        self, store: Store, writer: str, attempt: int, clock: Callable[[], float] = time.time, interval_s: float = 5.0
    ) -> None:
        self._store = store
        self._name = f"{paths.EVENTS}/{writer}.jsonl"
        self._attempt = attempt
        self._clock = clock
        self._interval = interval_s if paths.is_url(store.root) else 0.0
        self._pending: list[str] = []
        self._urgent = False
        self._written = clock()

    @property
    def gathers(self) -> bool:
        """Whether metrics wait for the next write, and events for a store that does not answer."""
        return self._interval > 0

    @property
    def is_empty(self) -> bool:
        """Whether all events are written."""
        return not self._pending

    @property
    def is_due(self) -> bool:
        """Whether what was gathered should be written now."""
        return bool(self._pending) and (self._urgent or self._clock() - self._written >= self._interval)

    def emit(self, kind: str, step: int | None = None, **data: Any) -> None:
        """Record one event."""
        self.add(kind, step, self._clock(), data)
        if self.is_due:
            self._flush_if_possible()

    def add(self, kind: str, step: int | None, moment: float, data: Mapping[str, Any]) -> None:
        """Take an event that happened at `moment` for the next write."""
        event = Event(kind=kind, time=moment, attempt=self._attempt, step=step, data=dict(data))
        self._pending.append(event.to_line())
        self._urgent = self._urgent or kind != METRICS

    def flush(self) -> None:
        """Write what was gathered."""
        if self._pending:
            self._store.append(self._name, "".join(self._pending))
            self._pending = []
            self._urgent = False
            self._written = self._clock()

    def _flush_if_possible(self) -> None:
        try:
            self.flush()
        except StorageError:
            if not self._interval:
                raise
            self._written = self._clock()
            self._urgent = False


class EventReader:
    """Reads the events of all writers as they come."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursors: dict[str, int] = {}

    def poll(self) -> list[Event]:
        """The events since the last call, in order of their time."""
        found = {
            name: self._store.tail(f"{paths.EVENTS}/{name}", self._cursors.get(name, 0))
            for name in self._store.list(paths.EVENTS)
        }
        # Only now: when the store fails within the round, the next one starts where this one did.
        self._cursors.update({name: cursor for name, (_, cursor) in found.items()})
        events = [event for text, _ in found.values() for line in text.split("\n") if (event := read_event(line))]
        return sorted(events, key=lambda event: event.time)


def read_event(line: str) -> Event | None:
    """The event in a line; None for what a dying worker left half written."""
    try:
        return Event.from_line(line)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
