"""Classes: which there are, and their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.data.arrays import Array
from orchestrator.data.records import Record, Unreadable


def classes_of(rows: Sequence[Record], column: str = "label") -> list[str]:
    """The classes of the training records, numbers by their size and all else by the alphabet."""
    found = {name for row in rows if (name := _name(row, column)) is not None}
    if all(name.isdecimal() for name in found):
        return sorted(found, key=int)
    return sorted(found)


def class_number(classes: Sequence[str], column: str = "label") -> Callable[[Record], int]:
    """A function from a record to the number of its class; one that was never trained on is unreadable."""
    numbers = {name: number for number, name in enumerate(classes)}

    def number_of(record: Record) -> int:
        name = _name(record, column)
        if name is None:
            raise Unreadable(f"it has no {column}")
        if name not in numbers:
            raise Unreadable(f"{column} {name!r} is not in the training split")
        return numbers[name]

    return number_of


def as_field(number: float, dtype: type[np.generic] = np.int64) -> Array:
    """A number as a field of an item."""
    return np.array(number, dtype=dtype)


def _name(record: Record, column: str) -> str | None:
    value = record.get(column)
    text = "" if value is None else str(value).strip()
    return text or None
