"""Who does the work when data has to be prepared: this process, unless somebody puts another builder in place."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.data.preparation import Facts, Fields, Preparation
from orchestrator.data.records import NAME, Record, Unreadable
from orchestrator.errors import DataError, OrchestratorError

Outcome = Fields | str
"""An item's arrays, or why it is unreadable."""
SAY_INTERVAL_S = 10.0


class Builder:
    """Prepares records one after the other in this process. Subclasses do it elsewhere."""

    preview = False
    """Whether only the first items are wanted, to see what they are like, and nothing is to be kept."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self.used: list[Any] = []
        """What was opened or made, in order (`cache.Ready`)."""

    def say(self, text: str) -> None:
        """Tell whoever waits."""
        self._say(text)

    def run(self, rows: Sequence[Record], preparation: Preparation, facts: Facts) -> Iterator[Outcome]:
        """One outcome for each record, in their order."""
        prepare = preparation.preparer(facts)
        for row in rows:
            yield outcome(prepare, row)


class Preview(Builder):
    """For planning, which looks at one item and must not prepare all of them."""

    preview = True


_current: list[Builder] = []


def current() -> Builder:
    """The builder in place."""
    return _current[-1] if _current else Builder()


@contextmanager
def using(builder: Builder) -> Iterator[Builder]:
    """Put a builder in place for the time of a block."""
    _current.append(builder)
    try:
        yield builder
    finally:
        _current.remove(builder)


def outcome(prepare: Callable[[Record], Fields], row: Record) -> Outcome:
    """Prepare one record. An item may be unreadable; another exception is a bug, told with the item's name."""
    try:
        return prepare(row)
    except Unreadable as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except OrchestratorError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"{row.get(NAME)} cannot be prepared: {type(error).__name__}: {error} ({place.filename}:{place.lineno})."
        ) from error


def told(outcomes: Iterator[Outcome], total: int, what: str, builder: Builder) -> Iterator[Outcome]:
    """The same outcomes; how far it is is said now and then."""
    last = time.monotonic()
    for number, found in enumerate(outcomes, 1):
        yield found
        if time.monotonic() - last > SAY_INTERVAL_S:
            last = time.monotonic()
            builder.say(f"prepared {number:,} of {total:,} {what} items")
