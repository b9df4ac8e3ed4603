"""Ctrl-C, SIGTERM and requests to stop, as something to be asked about."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator import paths
from orchestrator.foundation.storage import Store
from orchestrator.records.stop_request import StopRequest

REMOTE_LOOK_S = 2.0
"""Between two looks for a request in an object store, where each costs time and money."""


class Interrupts:
    """Counts Ctrl-C and SIGTERM instead of being ended by them; the second raises KeyboardInterrupt.

    A request in the run's folder counts as the first, and as the second once its time is over.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.count = 0
        self._store = store
        self._interval = REMOTE_LOOK_S if store and paths.is_url(store.root) else 0.0
        self._next_look = 0.0
        self._asked: float | None = None
        self._request: StopRequest | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt

    def look(self) -> bool:
        """Whether somebody asked to stop. Raises KeyboardInterrupt when it is to be at once."""
        moment = time.monotonic()
        if self._store and moment >= self._next_look:
            self._next_look = moment + self._interval
            self._request = StopRequest.read(self._store) or self._request
        if self._request:
            self.count = max(self.count, 1)
            self._asked = self._asked or moment
            if self._request.now or moment >= self._asked + self._request.grace_s:
                raise KeyboardInterrupt
        return self.count > 0

    @property
    def has_grace(self) -> bool:
        """Whether whoever asked has said how long there is to save; then `look` tells when that is over."""
        return self._request is not None

    def ignore(self) -> None:
        """From now on nothing interrupts: what is left to do is short and must be done."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Handle both signals for the time of a block."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
