"""When a run with fewer workers than it would like is stopped to go on with more."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_PATIENT = 16
"""After attempts to grow that came to nothing, room must last up to so many times as long."""


class Growth:
    """Watches the room there is. Stopping costs a save and a start, so room must have lasted for a while."""

    def __init__(self, interval_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval_s
        self._clock = clock
        self._patience = 1
        self._size = 0
        self._growing = False
        self._since: float | None = None

    def begun(self, size: int) -> None:
        """An attempt trains with so many workers. One that was to be larger and is not makes us more patient."""
        if self._growing:
            self._patience = 1 if size > self._size else min(2 * self._patience, MOST_PATIENT)
        self._size, self._growing, self._since = size, False, None

    def is_due(self, room: int) -> bool:
        """Whether there has been room for more workers than there are for long enough; then it is taken as begun."""
        if self._interval is None or self._growing or not self._size or room <= self._size:
            self._since = None
            return False
        now = self._clock()
        if self._since is None:
            self._since = now
        if now - self._since < self._interval * self._patience:
            return False
        self._growing = True
        return True
