"""Between a training step and the event file: a bounded queue and a thread, so that no step waits for storage.

An event counts as acknowledged when it is in the file: from then on it survives whatever kills the process.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from orchestrator.errors import StorageError
from orchestrator.records.events import METRICS, NOTE, EventWriter

BATCH = 1000
"""Most events of one write."""
LOOK_S = 0.5
"""How often the thread looks whether gathered metrics are due, when nothing new comes."""


class _Taken(NamedTuple):
    kind: str
    step: int | None
    moment: float
    data: dict[str, Any]


class Spool:
    """Takes events as an EventWriter does. Metrics never wait: when `limit` of them do already, they are dropped.

    All other events are news, and `emit` returns when they are in the file. While a file system refuses them for
    `patience_s`, that is a StorageError; a store far away may come back later, so there the training goes on.
    """

    def __init__(
        self,
        writer: EventWriter,
        limit: int = 10_000,
        *,
        patience_s: float = 30.0,
        retry_s: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._limit = limit
        self._patience = patience_s
        self._retry = retry_s
        self._clock = clock
        self._queue: deque[_Taken] = deque()
        self._changed = threading.Condition()
        self._taken = 0
        """Events taken so far, and below, how many of them are off our hands."""
        self._done = 0
        self._asked = 0
        """Up to which event someone waits."""
        self._trouble: StorageError | None = None
        self._closed = False
        self.dropped = 0
        """Metrics events that were not recorded, because too many waited or because they cannot be written as JSON."""
        self._thread = threading.Thread(target=self._run, name="event spool", daemon=True)
        self._thread.start()

    def emit(self, kind: str, step: int | None = None, **data: Any) -> None:
        """Record one event."""
        taken = _Taken(kind, step, self._clock(), _copied(data))
        with self._changed:
            if kind == METRICS and len(self._queue) >= self._limit:
                self.dropped += 1
                return
            self._queue.append(taken)
            self._taken += 1
            self._changed.notify_all()
        if kind != METRICS:
            self._await_news()

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until all events taken so far are in the file; a StorageError says why they are not."""
        if not self._wait(self._patience if timeout_s is None else timeout_s, until_trouble=False):
            raise self._trouble or StorageError("Events could not be written to run storage in time.")

    def close(self, timeout_s: float | None = None) -> None:
        """Tell what was dropped, flush, and end the thread."""
        if self._closed:
            return
        try:
            if self.dropped:
                message = f"{self.dropped} times metrics were not recorded: run storage was too slow for them"
                self.emit(NOTE, message=message)
            self.flush(timeout_s)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._thread.join(2.0)

    def _await_news(self) -> None:
        written = self._wait(self._patience, until_trouble=self._writer.gathers)
        if not written and not self._writer.gathers:
            raise self._trouble or StorageError("Events could not be written to run storage in time.")

    def _wait(self, timeout_s: float, until_trouble: bool) -> bool:
        """Wait for what has been taken so far; say whether it is in the file."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            goal = self._asked = self._taken
            self._changed.notify_all()
            while self._done < goal and not (until_trouble and self._trouble):
                left = deadline - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    break
                self._changed.wait(min(left, LOOK_S))
            return self._done >= goal

    # --- the thread --------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._closed:
                self._encode(self._take())
                self._write()
        except Exception:  # noqa: BLE001  the thread's boundary: told to whoever waits, with its traceback
            with self._changed:
                self._trouble = StorageError(f"Events can no longer be written:\n{traceback.format_exc()}")
                self._changed.notify_all()

    def _take(self) -> list[_Taken]:
        """The next events; none when it is time to look whether gathered ones are due, or someone waits for them."""
        with self._changed:
            if not self._queue and not self._closed and self._asked <= self._done:
                self._changed.wait(LOOK_S)
            return [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]

    def _encode(self, events: list[_Taken]) -> None:
        for event in events:
            try:
                self._writer.add(*event)
            except (TypeError, ValueError):  # a value that is no plain data: no reason to lose all after it
                with self._changed:
                    self.dropped += 1

    def _write(self) -> None:
        """Write what is due, again and again until it can be done; meanwhile nothing more is taken from the queue."""
        while not self._closed:
            try:
                if self._writer.is_due or self._asked > self._done:
                    self._writer.flush()
                self._settle(None)
                return
            except StorageError as error:
                self._settle(error)
                self._rest()

    def _settle(self, trouble: StorageError | None) -> None:
        with self._changed:
            self._trouble = trouble
            if self._writer.is_empty:
                self._done = self._taken - len(self._queue)
            self._changed.notify_all()

    def _rest(self) -> None:
        deadline = time.monotonic() + self._retry
        with self._changed:
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)


def _copied(data: dict[str, Any]) -> dict[str, Any]:
    """What the caller changes afterwards must not change the event."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in data.items()}
