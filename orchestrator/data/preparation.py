"""How records become arrays: what all preparations have in common, and how one travels with a model."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from orchestrator import paths
from orchestrator.config.targets import exports, targets
from orchestrator.data.arrays import Array
from orchestrator.data.records import Record
from orchestrator.errors import MachineError, TargetError

Facts = dict[str, Any]
"""What was found out about the training split, as plain data: classes, averages, a vocabulary."""
Fields = Mapping[str, Array]
OWN = {
    "orchestrator.data.audio:LogMel",
    "orchestrator.data.audio:Waveform",
    "orchestrator.data.columns:Columns",
    "orchestrator.data.images:Images",
    "orchestrator.data.text:Packed",
    "orchestrator.data.text:Tokens",
}
"""The preparations we ship; others must be among the project's exports."""


class Items(Protocol):
    """Prepared items, on disk or in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Fields: ...

    def whole(self, name: str) -> Array: ...


class Preparation:
    """Base of all preparations: a frozen dataclass of plain parameters. Its methods depend on nothing else.

    Work that is dear is done once for each item (`preparer`) and kept; what is cheap, or differs from one time to the
    next, is done whenever an item is read (`reader`).
    """

    ragged: ClassVar[frozenset[str]] = frozenset()
    """Fields whose items differ in their first dimension."""

    def learn(self, rows: Sequence[Record]) -> Facts:
        """What must be known of the training records before one can be prepared."""
        return {}

    def preparer(self, facts: Facts) -> Callable[[Record], Fields]:
        """A function from a record to its arrays; raises Unreadable."""
        raise NotImplementedError

    def measure(self, items: Items) -> Facts:
        """What is found out about the prepared training items."""
        return {}

    def reader(self, facts: Facts) -> Callable[[Fields], Any]:
        """A function from an item's arrays to what a Task is given."""
        raise NotImplementedError

    def count(self, items: Items) -> int:
        """How many items a Task sees."""
        return len(items)

    def fetch(self, items: Items, index: int) -> Fields:
        """The arrays of the item that a Task sees under this number."""
        return items[index]


@dataclass(frozen=True, slots=True)
class Travelling:
    """A preparation with its facts: what a model needs to be given a new record. Comes from `load`."""

    preparation: Preparation
    facts: Facts

    def item(self, record: Record) -> Any:
        """What the model would have been given for this record in training; raises Unreadable."""
        fields = self.preparation.preparer(self.facts)(record)
        return self.preparation.reader(self.facts)(fields)


def describe(preparation: Preparation, facts: Facts) -> dict[str, Any]:
    """A preparation and its facts as plain data, to be kept with a model."""
    return {"kind": kind_of(preparation), "parameters": parameters(preparation), "facts": facts}


def load(description: Mapping[str, Any]) -> Travelling:
    """The preparation that `describe` described; only our own and the project's exports are built."""
    kind = str(description["kind"])
    allowed = OWN | exports.of_project(paths.project_dir())
    if kind not in allowed:
        raise targets.forbidden(f"preparation kind={kind}", kind, allowed, "")
    module, _, name = kind.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Preparation)):
        raise TargetError(f"{kind} is not a preparation.")
    return Travelling(found(**description["parameters"]), description["facts"])


def kind_of(preparation: Preparation) -> str:
    """`module:Class`."""
    return f"{type(preparation).__module__}:{type(preparation).__qualname__}"


def parameters(preparation: Preparation) -> dict[str, Any]:
    """A preparation's parameters as plain data."""
    return dataclasses.asdict(preparation)  # type: ignore[call-overload,no-any-return]


def sources(preparation: Preparation) -> list[Path]:
    """The files with the code of a preparation, its bases and this room."""
    own = {Path(file) for file in Path(__file__).parent.rglob("*.py")}
    theirs = {Path(inspect.getfile(base)) for base in type(preparation).__mro__ if base is not object}
    return sorted(own | theirs)


def need(module: str, extra: str) -> Any:
    """An optional library, or the way to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MachineError(
            f"{module} is not installed, and this data needs it.", f"pip install 'orchestrator[{extra}]'"
        ) from error
