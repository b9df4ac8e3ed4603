"""What workers and the driver printed, read from run storage: merged by time, cut by rank, time and pattern, followed.

Nothing here asks the cluster, so a run's logs read the same while it runs and long after its cluster is gone.
"""

from __future__ import annotations

import heapq
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from orchestrator import paths
from orchestrator.errors import ConfigError, UnknownRunError
from orchestrator.foundation.storage import LocalStore, Store
from orchestrator.records import events
from orchestrator.records.events import Event, read_event
from orchestrator.records.noise import Filter

CHUNK = 1 << 20
"""Bytes that are read at once."""
WORKER = re.compile(r"rank-(\d+)\.log")
DRIVER = "driver"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a log."""

    text: str
    rank: int | None = None
    """The worker that printed it; None: the driver."""
    node: str = ""
    """Where that worker was, if it is known."""
    time: float | None = None
    """When it was there, to half a second or so; None: not known, or since the last look."""

    @property
    def source(self) -> str:
        """Who printed it, as people read it."""
        return DRIVER if self.rank is None else f"rank {self.rank} {self.node}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which lines somebody wants to see."""

    ranks: frozenset[int] = frozenset()
    """Empty: all, and the driver's."""
    since: float | None = None
    pattern: re.Pattern[str] | None = None
    noise: bool = False
    """Whether the messages of libraries are wanted too."""

    def takes(self, text: str) -> bool:
        """Whether a line's text is wanted."""
        return self.pattern is None or self.pattern.search(text) is not None


@dataclass(slots=True)
class Times:
    """When which part of a log was written."""

    moments: list[float] = field(default_factory=list)
    cursors: list[int] = field(default_factory=list)
    _read: int = 0

    def update(self, store: Store, name: str) -> None:
        """Read what was noted since the last time."""
        text, self._read = store.tail(name, self._read)
        for line in text.splitlines():
            moment, _, cursor = line.partition(" ")
            if cursor.isdigit():
                self.moments.append(float(moment))
                self.cursors.append(int(cursor))

    def at(self, cursor: int) -> float | None:
        """When what begins at a cursor was there."""
        found = bisect_right(self.cursors, cursor)
        return self.moments[found] if found < len(self.moments) else None

    def cursor(self, moment: float) -> int:
        """Where to begin in order to miss nothing that was written since a moment."""
        found = bisect_left(self.moments, moment)
        return self.cursors[found - 1] if found else 0


class Places:
    """On which node each rank was, at any time."""

    def __init__(self, placed: Iterable[Event]) -> None:
        self._found: dict[int, list[tuple[float, str]]] = {}
        for event in placed:
            if event.kind == events.PLACED:
                for rank, node in event.data.get("nodes", {}).items():
                    self._found.setdefault(int(rank), []).append((event.time, str(node)))

    def node(self, rank: int, moment: float | None) -> str:
        """The node of a rank at a moment (None: the last). A worker prints before the driver hears where it is."""
        known = self._found.get(rank, [])
        earlier = [node for time, node in known if moment is None or time <= moment]
        return earlier[-1] if earlier else known[0][1] if known else ""


class Log:
    """One growing log."""

    def __init__(self, store: Store, rank: int | None, wanted: Wanted, places: Places) -> None:
        self._store = store
        self._rank = rank
        self._wanted = wanted
        self.places = places
        self._name = paths.DRIVER_LOG if rank is None else paths.worker_log(rank)
        self._filter = Filter()
        self._times = Times()
        self._cursor = 0
        self._began = False

    def lines(self) -> Iterator[Line]:
        """Wanted lines that are there and were not read before."""
        self._update()
        while True:
            start = self._cursor
            text, self._cursor = self._store.tail(self._name, start, CHUNK if self._is_local else 1)
            if self._cursor == start:
                return
            yield from self._read(text, start)

    def _update(self) -> None:
        self._times.update(self._store, paths.log_times(self._name))
        if not self._began and self._wanted.since is not None:
            self._cursor = self._times.cursor(self._wanted.since)
        self._began = True

    def _read(self, text: str, at: int) -> Iterator[Line]:
        for raw in text.removesuffix("\n").split("\n"):
            moment = self._times.at(at)
            at += len(raw.encode()) + 1 if self._is_local else 0
            # A progress bar overwrites its line: the last state is what a terminal would show.
            line = raw.rstrip("\r").rpartition("\r")[2]
            if self._filter.is_noise(line) and not self._wanted.noise:
                continue
            if self._wanted.takes(line):
                yield self._line(line, moment)

    def _line(self, text: str, moment: float | None) -> Line:
        node = "" if self._rank is None else self.places.node(self._rank, moment)
        return Line(text=text, rank=self._rank, node=node, time=moment)

    @property
    def _is_local(self) -> bool:
        """Whether cursors count bytes, rather than pieces."""
        return isinstance(self._store, LocalStore)


class Logs:
    """All logs of a run that are wanted."""

    def __init__(self, store: Store, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted
        self._logs: dict[int | None, Log] = {}

    def lines(self) -> Iterator[Line]:
        """Wanted lines that are there and were not read before, by time as far as it is known."""
        places = Places(driver_events(self._store))
        for rank in self._ranks():
            if rank not in self._logs:
                self._logs[rank] = Log(self._store, rank, self._wanted, places)
            self._logs[rank].places = places
        streams = [_dated(log.lines()) for log in self._logs.values()]
        for _, line in heapq.merge(*streams, key=lambda dated: dated[0]):
            yield line

    def _ranks(self) -> list[int | None]:
        """The workers' logs in order, and before them the driver's."""
        names = self._store.list(paths.LOGS)
        there = sorted(int(found[1]) for name in names if (found := WORKER.fullmatch(name)))
        if self._wanted.ranks:
            return [rank for rank in there if rank in self._wanted.ranks]
        return [*([None] if paths.DRIVER_LOG.rpartition("/")[2] in names else []), *there]


def _dated(lines: Iterable[Line]) -> Iterator[tuple[float, Line]]:
    """Lines with the time to sort them by, which never goes back: one of an unknown time comes after the one before."""
    last = 0.0
    for line in lines:
        last = max(last, math.inf if line.time is None else line.time)
        yield last, line


def ranks(store: Store) -> list[int]:
    """The workers that have a log."""
    return sorted(int(found[1]) for name in store.list(paths.LOGS) if (found := WORKER.fullmatch(name)))


def check_ranks(store: Store, run: str, wanted: Iterable[int], workers: int | None) -> None:
    """Refuse ranks that there are none of; `workers`: how many the run has or will have, if that is known."""
    there = ranks(store)
    known = set(there) | set(range(workers or 0))
    wrong = [rank for rank in wanted if rank not in known]
    if wrong and known:
        last = max(known)
        raise UnknownRunError(
            f"Run {run} has no worker of rank {wrong[0]}.", f"It has ranks 0 to {last}." if last else "It has rank 0."
        )


def driver_events(store: Store) -> list[Event]:
    """What the driver told: waiting, places, restarts. Few, unlike what workers tell."""
    text, _ = store.tail(f"{paths.EVENTS}/driver.jsonl")
    return [event for line in text.split("\n") if (event := read_event(line))]


def ending(store: Store, name: str, limit: int) -> str:
    """About the last `limit` bytes of a growing file, from the beginning of a line."""
    if not isinstance(store, LocalStore):
        pieces = len(store.list(name))
        text = ""
        for last in range(pieces - 1, -1, -1):
            piece, _ = store.tail(name, last, 1)
            text = piece + text
            if len(text) >= limit:
                break
        return text
    path = store.path / name
    if not path.is_file():
        return ""
    start = max(0, path.stat().st_size - limit)
    text, _ = store.tail(name, start)
    return text if not start else text.partition("\n")[2]


def last_lines(store: Store, rank: int, count: int) -> list[str]:
    """The last lines of a worker's log that are no noise."""
    noise = Filter()
    lines = [
        line.rstrip("\r").rpartition("\r")[2]
        for line in ending(store, paths.worker_log(rank), CHUNK // 16).splitlines()
    ]
    return [line for line in lines if line.strip() and not noise.is_noise(line)][-count:]


def parse_since(text: str, now: float) -> float:
    """A moment, from a span before now (90s, 10m, 2h, 1d) or a time (09:30, 2026-01-31, 2026-01-31T09:30)."""
    import datetime

    span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if span:
        return now - float(span[1]) * UNITS[span[2]]
    try:
        if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", text.strip()):
            today = datetime.datetime.fromtimestamp(now).date()
            clock = datetime.time.fromisoformat(text.strip().zfill(5))
            return datetime.datetime.combine(today, clock).timestamp()
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        raise ConfigError(
            f"--since {text!r} is no time.",
            "Write a span, as 90s, 10m, 2h or 1d, or a time, as 09:30 or 2026-01-31T09:30.",
        ) from None


def parse_pattern(text: str) -> re.Pattern[str]:
    """A regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"--grep {text!r} is no regular expression: {error}.",
            "Put a backslash before signs that are meant as they are.",
        ) from None
