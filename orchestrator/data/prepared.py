"""Datasets of prepared items: what a data callable of a config returns.

    def photos(split: str, path: str, size: int = 32, cache: str | None = None) -> PreparedDataset | None:
        splits = Splits(sources=files.by_split(path, files.IMAGES), val_fraction=0.1)
        return Prepared(splits=splits, preparation=Images(size=size), cache=cache).dataset(split)

The annotation of what it returns tells that there is something to prepare: a run then does that first, on the cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from orchestrator.data import build, cache, preparation
from orchestrator.data.arrays import Array
from orchestrator.data.preparation import Facts, Fields, Items, Preparation
from orchestrator.data.records import Problem, Splits
from orchestrator.errors import DataError

Augment = Callable[[Any, np.random.Generator], Any]
"""From an item and random numbers to the item changed by them; can be sent to other processes."""
PREVIEWED = 64
"""So many items are prepared to see what they are like."""
PREVIEW_LEARNED = 2000
"""So many records are learnt from for that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Records, what becomes of them, and where it is kept."""

    splits: Splits
    preparation: Preparation
    cache: str | None = None
    """Folder of prepared data; null: ~/.cache/orchestrator/data."""
    skip_unreadable: int = 0
    """So many unusable items are passed over; one more ends the run."""
    augment: Augment | None = None
    """What training does to each item at random, anew each time."""

    def dataset(self, split: str) -> PreparedDataset | None:
        """The items of a split, prepared now unless they are there already; None when there are none."""
        if build.current().preview:
            return self._preview(split)
        ready = cache.ensure(self.splits, self.preparation, self._folder())
        self._check(ready.problems)
        items = ready.arrays(split)
        return PreparedDataset(items, self.preparation, ready.facts, ready.problems, self.augment) if items else None

    def _folder(self) -> Path:
        return Path(self.cache).expanduser().absolute() if self.cache else cache.default_folder()

    def _check(self, problems: tuple[Problem, ...]) -> None:
        if len(problems) > self.skip_unreadable:
            raise DataError(
                f"{len(problems)} item{'s' if len(problems) > 1 else ''} cannot be used, and"
                f" data.skip_unreadable={self.skip_unreadable}: {cache.listed(problems)}.",
                f"Mend or remove them, or pass over them with data.skip_unreadable={len(problems)}.",
            )

    def _preview(self, split: str) -> PreparedDataset | None:
        """The first items of a split, prepared in memory."""
        rows = self.splits.read()
        if split not in rows:
            return None
        facts = self.preparation.learn(rows["train"].rows[:PREVIEW_LEARNED])
        train = _in_memory(self, rows["train"].rows, facts)
        items = train if split == "train" else _in_memory(self, rows[split].rows, facts)
        facts |= self.preparation.measure(train)
        return PreparedDataset(items, self.preparation, facts) if len(items) else None


def _in_memory(prepared: Prepared, rows: Any, facts: Facts) -> MemoryItems:
    found = build.current().run(rows, prepared.preparation, facts)
    usable = (outcome for outcome in found if not isinstance(outcome, str))
    return MemoryItems(tuple(itertools.islice(usable, PREVIEWED)), prepared.preparation.ragged)


@dataclass(frozen=True, slots=True)
class MemoryItems:
    """A few prepared items."""

    items: tuple[Fields, ...]
    ragged: frozenset[str]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Fields:
        return self.items[index]

    def whole(self, name: str) -> Array:
        """A field of all items, stacked, or one after the other if it is ragged."""
        parts = [np.asarray(item[name]) for item in self.items]
        return np.concatenate(parts) if name in self.ragged else np.stack(parts)


class PreparedDataset:
    """The items of a split as a Task is given them; can be sent to other processes."""

    def __init__(
        self,
        items: Items,
        prepare: Preparation,
        facts: Facts,
        problems: tuple[Problem, ...] = (),
        augment: Augment | None = None,
    ) -> None:
        self.items = items
        self.facts = facts
        self.problems = problems
        self.augment = augment
        self._preparation = prepare
        self._read = prepare.reader(facts)
        self._count = prepare.count(items)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._read(self._preparation.fetch(self.items, index))

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """How a new record is prepared for a model trained on these, as plain data (`preparation.load`)."""
        return preparation.describe(self._preparation, self.facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedDataset, (self.items, self._preparation, self.facts, self.problems, self.augment)


def is_prepared(call: Any) -> bool:
    """Whether a data callable says that what it returns is prepared first."""
    try:
        returned = get_type_hints(call).get("return")
    except (NameError, TypeError, AttributeError):
        return False
    choices = (returned, *get_args(returned))
    return any(isinstance(choice, type) and issubclass(choice, PreparedDataset) for choice in choices)
