"""The ledger of a sweep: what became of its trials, as lines that are only ever added. It alone is the truth.

Ray Tune and the sampler are built anew from it whenever a sweep goes on. A line that was cut off by the end of its
writer counts as not written.

It stands in for `Tuner.restore`: Ray Tune's snapshots are taken now and then, and are pickles. The ledger gets each
line when it happens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from orchestrator.foundation.storage import Store
from orchestrator.records.events import in_words, metrics_from

LEDGER = "ledger.jsonl"
TRIAL, BEGUN, RUNG, PAUSED, ENDED, SWEEP = "trial", "begun", "rung", "paused", "ended", "sweep"
CHANGED, HALVED = "changed", "halved"
"""Kinds of lines: a trial was chosen; a process took it up; it reached a rung; it stands there; it ended; the sweep
itself began or ended. A trial's values were changed on the way; it goes on with a smaller micro batch, since it ran out
of memory."""


class State(Enum):
    """How a trial stands."""

    waiting = "waiting"
    """Chosen, and not yet begun."""
    running = "running"
    """Begun, and not ended; when nobody carries the sweep out, it goes on from its newest checkpoint later."""
    paused = "paused"
    """At a rung, where it stands until it is known to be among the best."""
    finished = "finished"
    pruned = "pruned"
    """Ended early, since others did better."""
    failed = "failed"


OVER = (State.finished, State.pruned, State.failed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """What a trial had reached at one point."""

    at: float
    """Epochs, or steps where the job says steps."""
    step: int
    metrics: dict[str, float]


@dataclass(kw_only=True, slots=True)
class Trial:
    """All that the ledger says of a trial."""

    number: int
    values: dict[str, Any]
    overrides: list[str]
    created: float
    seed: int = 0
    state: State = State.waiting
    rungs: list[Rung] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    """Time that its workers trained for, all launches together."""
    ended: float | None = None
    version: int = 0
    """How often its values were changed on the way."""
    micro_batch: int | None = None
    """The micro batch that it got in place of the planned one, after it had run out of memory."""
    sources: list[int] = field(default_factory=list)
    """The trials whose weights it took over, in order."""

    @property
    def at(self) -> float:
        """How far it came."""
        return self.rungs[-1].at if self.rungs else 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in OVER


@dataclass(kw_only=True, slots=True)
class Book:
    """The ledger read as a whole."""

    trials: dict[int, Trial] = field(default_factory=dict)
    order: list[dict[str, Any]] = field(default_factory=list)
    """All lines, as they were written."""
    status: str = "created"
    """Of the sweep: created, running, stopped, finished, failed."""
    message: str = ""
    host: str = ""
    pid: int = 0
    began: float = 0.0
    """When it was last begun, and below, when it ended and how long earlier sittings took."""
    over: float | None = None
    earlier_s: float = 0.0

    def take(self, entry: Mapping[str, Any]) -> None:
        """Add one line."""
        kind, known = entry["kind"], self.trials.get(entry.get("number", -1))
        if kind == SWEEP:
            self._take_sweep(entry)
        elif kind == TRIAL:
            self.trials[entry["number"]] = Trial(
                number=entry["number"],
                values=entry["values"],
                overrides=entry["overrides"],
                created=entry["time"],
                seed=entry.get("seed", 0),
            )
        elif known and kind == BEGUN:
            known.state = State.running
        elif known and kind == RUNG:
            metrics = metrics_from(entry["metrics"])
            known.rungs.append(Rung(at=entry["at"], step=entry["step"], metrics=metrics))
            known.state, known.metrics = State.running, metrics
            known.seconds = entry["seconds"]
        elif known and kind == PAUSED:
            known.state = State.paused
        elif known and kind == CHANGED:
            known.values, known.overrides = entry["values"], entry["overrides"]
            known.version += 1
            known.sources.append(entry["source"])
        elif known and kind == HALVED:
            known.micro_batch = entry["micro_batch"]
        elif known and kind == ENDED:
            known.state, known.error = State(entry["state"]), entry.get("error", "")
            known.metrics = metrics_from(entry["metrics"]) or known.metrics
            known.seconds, known.ended = max(known.seconds, entry["seconds"]), entry["time"]
        self.order.append(dict(entry))

    def _take_sweep(self, entry: Mapping[str, Any]) -> None:
        self.status, self.message = entry["state"], entry.get("message", "")
        if self.status == "running":
            self.host, self.pid, self.began, self.over = entry["host"], entry["pid"], entry["time"], None
        elif self.over is None:
            self.over = entry["time"]
            self.earlier_s += entry["time"] - self.began

    def count(self, state: State) -> int:
        """How many trials stand so."""
        return sum(trial.state is state for trial in self.trials.values())

    @property
    def unfinished(self) -> list[Trial]:
        """Trials that were chosen and are not over, in order."""
        return [trial for _, trial in sorted(self.trials.items()) if not trial.is_over]


class Ledger:
    """Reads and writes the ledger of one sweep. One process writes at a time."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._cursor = 0
        self.book = Book()

    def read(self) -> Book:
        """The book with all that was written since the last time."""
        text, self._cursor = self._store.tail(LEDGER, self._cursor)
        for line in text.split("\n"):
            entry = _entry(line)
            if entry:
                self.book.take(entry)
        return self.book

    def write(self, kind: str, **data: Any) -> None:
        """Add one line, and take it into the book."""
        line = json.dumps(in_words({"kind": kind, "time": self._clock(), **data}), allow_nan=False)
        self._store.append(LEDGER, line + "\n")
        self.read()


def _entry(line: str) -> dict[str, Any] | None:
    """The entry in a line; None for what was cut off."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "kind" in entry and "time" in entry else None
