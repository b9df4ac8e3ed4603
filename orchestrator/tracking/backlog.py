"""The metrics that MLflow does not have yet, read from the event files chunk by chunk from where the ledger stands.

What it yields follows from the files and the attempts' starts alone. So after a crash between sending and noting it
down, the same points come again, equal in time, step and value, and MLflow keeps one of equals.

Metrics are pulled from storage rather than pushed through a queue in memory: a queue ends with its process and is too
short for some outage, while a cursor into files that exist anyway is all that a later process needs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from orchestrator import paths
from orchestrator.foundation.storage import Store
from orchestrator.records.events import FINISHED, METRICS, Event, read_event
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.params import name_for_mlflow

CHUNK_BYTES = 256 * 1024
"""Of the event files, read at once: some thousand points."""
SAVE_S = 1.0
"""Least time between two writes of the ledger."""


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    timestamp: int
    """Milliseconds since 1970."""
    step: int


@dataclass(kw_only=True, slots=True)
class _Chunk:
    """What was read and not yet noted as sent."""

    points: list[Point] = field(default_factory=list)
    cursors: dict[str, int]
    marks: dict[str, int]
    size: int = 0


class Backlog:
    """The points to send of one run. `attempt` is the number of the attempt that sends: a later one ends its part.

    A driver that begins a later one itself goes on with that, by setting it anew.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        *,
        created: float,
        attempt: int,
        chunk_bytes: int = CHUNK_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._created = created
        self.attempt = attempt
        self._chunk_bytes = chunk_bytes
        self._clock = clock
        self._chunk: _Chunk | None = None
        self._starts: dict[int, float] = {}
        self._names: dict[str, str] = {}
        self._saved = -SAVE_S
        self.superseded = False
        """A later attempt has begun, and sends what there is."""
        self.at_end = False
        """The last look found nothing new in any file."""

    def next(self) -> list[Point]:
        """Points in the order of their steps, the same ones until `commit`; none when there are none now."""
        if self._chunk is None:
            self._look_at_attempts()
            self._chunk = self._nothing() if self.superseded else self._read()
        return self._chunk.points

    def commit(self, rejected: int = 0) -> None:
        """Note that all points of the last `next` are stored, but for those that MLflow refused."""
        if self._chunk is None:
            return
        chunk, self._chunk = self._chunk, None
        ledger = self._ledger
        moved = ledger.cursors != chunk.cursors
        ledger.cursors, ledger.marks = chunk.cursors, chunk.marks
        ledger.sent += len(chunk.points) - rejected
        ledger.rejected += rejected
        if moved and self._clock() - self._saved >= SAVE_S:
            self.save()

    def has_more(self) -> bool:
        """Whether anything waits to be sent; lines that need not be are noted as done on the way."""
        while not self.next():
            self.commit()
            if self.at_end or self.superseded:
                return False
        return True

    def save(self) -> None:
        """Write the ledger now."""
        self._saved = self._clock()
        self._ledger.save(self._store)

    def _look_at_attempts(self) -> None:
        """Attempts can be added by others while we send. A record that cannot be read now tells nothing new."""
        try:
            attempts = json.loads(self._store.read(paths.RECORD))["attempts"]
            self._starts = {attempt["number"]: attempt["started"] for attempt in attempts}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        self.superseded = any(number > self.attempt for number in self._starts)

    def _nothing(self) -> _Chunk:
        self.at_end = False
        return _Chunk(cursors=dict(self._ledger.cursors), marks=dict(self._ledger.marks))

    def _read(self) -> _Chunk:
        """The next lines of all files, in all about `chunk_bytes`."""
        chunk = self._nothing()
        names = self._store.list(paths.EVENTS)
        for name in names:
            left = self._chunk_bytes - chunk.size
            if left <= 0:
                break
            text, chunk.cursors[name] = self._store.tail(
                f"{paths.EVENTS}/{name}", self._ledger.cursors.get(name, 0), left
            )
            chunk.size += len(text)
            chunk.points += [point for line in text.split("\n") for point in self._points(line, chunk.marks)]
        self.at_end = chunk.size == 0
        return chunk

    def _points(self, line: str, marks: dict[str, int]) -> Iterator[Point]:
        """The points of a line that are neither stale nor older than what their metric has; moves its mark."""
        event = read_event(line)
        if event is None or event.kind not in (METRICS, FINISHED) or self._is_stale(event):
            return
        step = event.step if event.step is not None else max(0, int(event.time - self._created))
        for name, value in _metrics(event):
            key = self._key(name)
            # The end repeats the last values; only what was never told before it is new.
            if step > marks.get(key, -1) and not (event.kind == FINISHED and key in marks):
                marks[key] = step
                yield Point(key, value, int(event.time * 1000), step)

    def _is_stale(self, event: Event) -> bool:
        """Whether an older attempt, one that was given up, wrote this after a later one had begun."""
        return any(number > event.attempt and event.time >= start for number, start in self._starts.items())

    def _key(self, name: str) -> str:
        if name not in self._names:
            self._names[name] = name_for_mlflow(name)
        return self._names[name]


def _metrics(event: Event) -> Iterator[tuple[str, float]]:
    metrics: Any = event.data.get("metrics")
    return iter(metrics.items() if isinstance(metrics, dict) else ())
