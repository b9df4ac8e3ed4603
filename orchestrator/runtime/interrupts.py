"""Ctrl-C and SIGTERM as something to be asked about."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Counts Ctrl-C and SIGTERM instead of being ended by them; the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt

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
