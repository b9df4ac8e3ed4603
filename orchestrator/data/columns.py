"""Tables: numbers imputed and standardised, categories numbered, one column to predict."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.arrays import Array
from orchestrator.data.labels import as_field
from orchestrator.data.preparation import Facts, Fields, Preparation
from orchestrator.data.records import NAME, Record, Unreadable
from orchestrator.errors import ConfigError, did_you_mean

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
NUMERIC_SHARE = 0.9
"""A column is numeric when at least this share of what stands in it are numbers; what is not is then unreadable."""
OTHER = 0
"""Number of categories that are missing, rare, or were never seen in training."""
Item = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns(Preparation):
    """Rows of numbers and categories. Records have the columns of a table."""

    target: str
    """The column to predict, a number."""
    numeric: list[str] | None = None
    """Columns of numbers; null: those that look like it."""
    categories: list[str] | None = None
    """Columns of categories; null: all the others."""
    ignore: list[str] | None = None
    """Columns to leave out, when the others are to be found out."""
    rare: int = 1
    """Categories with fewer training rows than this count as one."""

    def learn(self, rows: Sequence[Record]) -> Facts:
        """Kinds of columns; medians, means and deviations; categories."""
        if not rows:
            raise ConfigError("The training table has no rows.")
        self._check_names([name for name in rows[0] if name != NAME])
        numeric, categories = self._kinds(rows)
        targets = [value for row in rows if (value := _number_or_none(row.get(self.target))) is not None]
        if not targets:
            raise ConfigError(f"data.target={self.target} is a column without numbers.", "Name another column.")
        return {
            "numeric": {name: _summary(rows, name) for name in numeric},
            "categories": {name: _kept(rows, name, self.rare) for name in categories},
            "target": {"mean": statistics.fmean(targets), "deviation": statistics.pstdev(targets) or 1.0},
        }

    def preparer(self, facts: Facts) -> Callable[[Record], Fields]:
        """Impute, standardise and number."""
        numeric: dict[str, dict[str, float]] = facts["numeric"]
        numbers = {
            name: {category: number for number, category in enumerate(known, 1)}
            for name, known in facts["categories"].items()
        }

        def prepare(record: Record) -> Fields:
            target = _number(record, self.target)
            if target is None:
                raise Unreadable(f"it has no {self.target}")
            standard = [_standardised(_number(record, name), known) for name, known in numeric.items()]
            codes = [known.get(_text(record.get(name)), OTHER) for name, known in numbers.items()]
            return {
                "numbers": np.array(standard, dtype=np.float32),
                "codes": np.array(codes, dtype=np.int64),
                "target": as_field((target - facts["target"]["mean"]) / facts["target"]["deviation"], np.float32),
            }

        return prepare

    def reader(self, facts: Facts) -> Callable[[Fields], Item]:
        """Numbers, category numbers, and the standardised target."""

        def read(fields: Fields) -> Item:
            return _tensor(fields["numbers"]), _tensor(fields["codes"]), _tensor(fields["target"])

        return read

    def _named(self) -> list[str]:
        return [self.target, *(self.numeric or []), *(self.categories or []), *(self.ignore or [])]

    def _check_names(self, there: list[str]) -> None:
        for name in self._named():
            if name not in there:
                hint = did_you_mean(name, there) or f"It has: {', '.join(there)}."
                raise ConfigError(f"The table has no column {name!r}.", hint)

    def _kinds(self, rows: Sequence[Record]) -> tuple[list[str], list[str]]:
        """Names of the numeric columns and of those of categories."""
        given = {NAME, *self._named()}
        open_names = [name for name in rows[0] if name not in given]
        found = [name for name in open_names if _looks_numeric(rows, name)]
        others = [name for name in open_names if name not in found]
        if self.numeric is not None and self.categories is not None:
            return self.numeric, self.categories
        if self.numeric is not None:
            return self.numeric, open_names
        if self.categories is not None:
            return open_names, self.categories
        return found, others


def _summary(rows: Sequence[Record], name: str) -> dict[str, float]:
    values = [value for row in rows if (value := _number_or_none(row.get(name))) is not None]
    if not values:
        raise ConfigError(f"The column {name} has no numbers.", f"Leave it out: data.ignore=[{name}].")
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "deviation": statistics.pstdev(values) or 1.0,
    }


def _kept(rows: Sequence[Record], name: str, rare: int) -> list[str]:
    counts = Counter(_text(row.get(name)) for row in rows)
    return sorted(category for category, count in counts.items() if category and count >= rare)


def _looks_numeric(rows: Sequence[Record], name: str) -> bool:
    values = [text for row in rows if (text := _text(row.get(name)))]
    good = sum(_number_or_none(value) is not None for value in values)
    return bool(values) and good >= NUMERIC_SHARE * len(values)


def _standardised(value: float | None, known: dict[str, float]) -> float:
    return ((known["median"] if value is None else value) - known["mean"]) / known["deviation"]


def _number(record: Record, name: str) -> float | None:
    """The number in a cell; None when nothing stands there."""
    value = record.get(name)
    number = _number_or_none(value)
    if number is None and _text(value):
        raise Unreadable(f"{name}={value!r} is not a number")
    return number


def _number_or_none(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    """A cell's text; empty when something in it says that nothing is known."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in MISSING else text


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array))
