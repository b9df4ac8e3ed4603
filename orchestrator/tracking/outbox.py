"""Metrics on their way to the tracking server: taken at once, sent in batches, kept while the server is away."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    timestamp: int
    """Milliseconds since 1970."""
    step: int


class Rejected(Exception):
    """The server understood the batch and will never take it: trying again is useless."""


Send = Callable[[Sequence[Point]], None]
"""Sends a batch: returns when it is stored, raises Rejected, or raises anything else when it is worth trying again."""


class Outbox:
    """A queue with a sender thread. `put` never blocks and never raises."""

    def __init__(
        self,
        send: Send,
        *,
        period_s: float = 1.0,
        batch: int = 1000,
        limit: int = 500_000,
        backoff_s: tuple[float, float] = (1.0, 30.0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._period = period_s
        self._batch = batch
        self._limit = limit
        self._backoff = backoff_s
        self._clock = clock
        self._waiting: deque[Point] = deque()
        self._changed = threading.Condition()
        self._busy = 0
        self._hurry = False
        self._closed = False
        self._retry_now = False
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Points given up because too many were waiting, or because the server refused them for good."""
        self.problem = ""
        """Why the last try failed; empty when it did not."""

    def start(self) -> None:
        """Start sending."""
        self._thread = threading.Thread(target=self._run, name="mlflow metrics", daemon=True)
        self._thread.start()

    def put(self, points: Sequence[Point]) -> None:
        """Take points to send. When too many wait, the oldest are given up."""
        with self._changed:
            self._waiting.extend(points)
            self._trim()
            self._changed.notify_all()

    @property
    def unsent(self) -> int:
        """Points that are neither stored nor given up."""
        with self._changed:
            return len(self._waiting) + self._busy

    def flush(self, timeout_s: float) -> bool:
        """Send without waiting for more, until nothing is left or the time is up; say whether all is sent."""
        deadline = self._clock() + timeout_s
        with self._changed:
            self._hurry = self._retry_now = True
            self._changed.notify_all()
            while (self._waiting or self._busy) and self._clock() < deadline:
                self._changed.wait(min(0.5, max(0.0, deadline - self._clock())))
            self._hurry = False
            return not (self._waiting or self._busy)

    def close(self, timeout_s: float) -> int:
        """Flush, end the thread, and return how many points were not sent."""
        self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return self.unsent

    def _trim(self) -> None:
        while len(self._waiting) > self._limit:
            self._waiting.popleft()
            self.dropped += 1

    def _run(self) -> None:
        pause = self._backoff[0]
        while batch := self._take():
            if self._deliver(batch):
                pause = self._backoff[0]
            else:
                self._rest(pause)
                pause = min(2 * pause, self._backoff[1])

    def _take(self) -> list[Point]:
        """The next batch, gathered for one period unless it is full or someone waits; empty when closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            end = self._clock() + self._period
            while not self._closed and not self._hurry and len(self._waiting) < self._batch:
                left = end - self._clock()
                if left <= 0:
                    break
                self._changed.wait(left)
            if self._closed:
                return []
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._busy = len(batch)
            return batch

    def _deliver(self, batch: list[Point]) -> bool:
        """Send one batch; say whether it is off our hands."""
        problem, refused = "", False
        try:
            self._send(batch)
        except Rejected as error:
            problem, refused = str(error), True
        except Exception as error:  # noqa: BLE001  the thread's boundary: kept in `problem`, and tried again
            problem = str(error) or type(error).__name__
        with self._changed:
            self.problem = problem
            self._busy = 0
            if refused:
                self.dropped += len(batch)
            elif problem:
                self._waiting.extendleft(reversed(batch))
                self._trim()
            self._changed.notify_all()
        return refused or not problem

    def _rest(self, pause: float) -> None:
        """Wait before the next try; a flush that begins meanwhile tries once at once."""
        end = self._clock() + pause
        with self._changed:
            self._retry_now = False
            while not self._closed and not self._retry_now:
                left = end - self._clock()
                if left <= 0:
                    break
                self._changed.wait(left)
