"""From the backlog to the tracking server: a thread that sends in batches and goes on trying while the server is away.

It keeps nothing but the chunk that it is sending, so an outage costs neither memory nor points, however long it lasts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.tracking.backlog import Point


class Rejected(Exception):
    """The server understood the batch and will never take it: trying again is useless."""


Send = Callable[[Sequence[Point]], None]
"""Sends a batch: returns when it is stored, raises Rejected, or raises anything else when it is worth trying again."""


class Source(Protocol):
    """Where points come from: a Backlog."""

    superseded: bool
    at_end: bool

    def next(self) -> list[Point]:
        """Points to send, the same ones until `commit`."""

    def commit(self, rejected: int = 0) -> None:
        """They are stored."""

    def save(self) -> None:
        """Keep that for other processes."""


class Forwarder:
    """Sends what the source has, looking every `period_s`."""

    def __init__(
        self,
        source: Source,
        send: Send,
        *,
        period_s: float = 1.0,
        batch: int = 1000,
        backoff_s: tuple[float, float] = (1.0, 30.0),
    ) -> None:
        self._source = source
        self._send = send
        self._period = period_s
        self._batch = batch
        self._backoff = backoff_s
        self._pause = backoff_s[0]
        self._ready: deque[Sequence[Point]] = deque()
        self._refused = 0
        self._changed = threading.Condition()
        self._asked = 0
        """How often someone asked for all to be sent, and below, up to which time that was done."""
        self._done = 0
        self._hurry = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self.sent = 0
        """Points stored by this forwarder."""
        self.rejected = 0
        """Points that the server refused for good, and below, why the last of them."""
        self.refusal = ""
        self.problem = ""
        """Why the last try failed; empty when it did not."""

    def start(self) -> None:
        """Start sending."""
        self._thread = threading.Thread(target=self._run, name="mlflow metrics", daemon=True)
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Send without resting until all there is now is stored or the time is up; say whether it is."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._asked += 1
            goal = self._asked
            self._hurry = True
            self._pause = self._backoff[0]
            self._changed.notify_all()
            while self._done < goal and not (self._closed or self.superseded):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._done >= goal

    def close(self, timeout_s: float) -> bool:
        """Flush and end the thread; say whether all is stored."""
        flushed = self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return flushed

    @property
    def superseded(self) -> bool:
        """A later attempt has begun; this forwarder sends nothing more."""
        return self._source.superseded

    # --- the thread --------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._closed:
            self._rest(self.step())

    def step(self) -> float:
        """Send one chunk, if there is one; how long to rest before the next step."""
        with self._changed:
            asked, self._hurry = self._asked, False
        try:
            self._deliver()
            if self._source.at_end and asked > self._done:
                self._source.save()
        except Exception as error:  # noqa: BLE001  the thread's boundary: kept in `problem`, and tried again
            return self._failed(str(error) or type(error).__name__)
        return self._succeeded(asked)

    def _deliver(self) -> None:
        """Send what the source has next; a part that is stored is not sent again."""
        if not self._ready:
            points = self._source.next()
            self._ready.extend(points[start : start + self._batch] for start in range(0, len(points), self._batch))
        while self._ready and not self._closed:
            self._send_first()
        if not self._ready:
            refused, self._refused = self._refused, 0
            self._source.commit(refused)

    def _send_first(self) -> None:
        """Send the first batch; of one that is refused, find the points that are the reason."""
        batch = self._ready[0]
        try:
            self._send(batch)
            self.sent += len(batch)
            self._ready.popleft()
        except Rejected as error:
            self.refusal = str(error)
            self._ready.popleft()
            middle = len(batch) // 2
            if middle:
                self._ready.extendleft((batch[middle:], batch[:middle]))
            else:
                self._refused += 1
                self.rejected += 1

    def _succeeded(self, asked: int) -> float:
        with self._changed:
            self.problem = ""
            self._pause = self._backoff[0]
            if self._source.at_end:
                self._done = asked
                self._changed.notify_all()
                return self._period
            if self.superseded:
                self._changed.notify_all()
                return self._period
            return 0.0

    def _failed(self, problem: str) -> float:
        with self._changed:
            self.problem = problem
            pause = self._pause
            self._pause = min(2 * pause, self._backoff[1])
            return pause

    def _rest(self, pause: float) -> None:
        """Wait before the next step; a flush that begins meanwhile ends the rest."""
        end = time.monotonic() + pause
        with self._changed:
            while not self._closed and not self._hurry and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
