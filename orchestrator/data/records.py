"""Records: what sources hold, one for each item, and how they are divided into train, val and test."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import ConfigError, DataError

Record = Mapping[str, Any]
"""One item as its source has it, by the names that the source has for its parts."""
NAME = "@name"
"""The part of a record that says where it is (`cat/0001.jpg`, `sst2.tsv:17`); no column has that name."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An item that cannot be used."""

    name: str
    reason: str
    split: str = ""


class Unreadable(Exception):
    """An item cannot be used, for this reason; it is counted and passed over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """What a source holds."""

    rows: Sequence[Record]
    problems: Sequence[Problem] = ()


class Source(Protocol):
    """A place with records. A frozen dataclass of plain values, so that it can be compared and sent about."""

    def state(self) -> str:
        """Changes when the records may have changed; quick, since every worker asks."""

    def read(self) -> Records:
        """All records, always in the same order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """Which records are for training, and which are held out."""

    sources: Mapping[str, Source]
    """By split; `train` must be there."""
    val_fraction: float = 0.0
    """Share of the training records taken for val, if val has no source of its own."""
    test_fraction: float = 0.0
    val_names: str | None = None
    """The training records with names like this (`*_[0-4].wav`) are for val, if it has no source of its own."""
    test_names: str | None = None
    shuffle: bool = True
    """Take fractions at random by `seed`, or else from the end: val, then test."""
    seed: int = 0

    def __post_init__(self) -> None:
        fractions = (self.val_fraction, self.test_fraction)
        if min(fractions) < 0 or sum(fractions) >= 1:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction} and data.test_fraction={self.test_fraction} must be 0 or more,"
                " and leave something to train on."
            )

    def state(self) -> dict[str, Any]:
        """All that the division depends on, as plain data."""
        settings = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return settings | {"sources": {split: described(source) for split, source in self.sources.items()}}

    def read(self) -> dict[str, Records]:
        """The records of each split that has any."""
        found = {split: source.read() for split, source in self.sources.items()}
        rows = list(found["train"].rows)
        taken: dict[str, list[Record]] = {}
        for split, names in (("val", self.val_names), ("test", self.test_names)):
            if split not in found and names:
                taken[split] = [row for row in rows if fnmatch.fnmatch(row[NAME], names)]
                rows = [row for row in rows if not fnmatch.fnmatch(row[NAME], names)]
                if not taken[split]:
                    raise ConfigError(f"data.{split}_names={names} fits none of the {len(rows)} names of the data.")
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        wanted = {split: share for split, share in fractions.items() if split not in found and split not in taken}
        taken |= self._cut(rows, wanted)
        problems = found["train"].problems
        return {**found, "train": Records(rows=taken.pop("train"), problems=problems)} | {
            split: Records(rows=rows) for split, rows in taken.items()
        }

    def _cut(self, rows: list[Record], fractions: Mapping[str, float]) -> dict[str, list[Record]]:
        """Shares of the records, and what is left for train. Held-out records keep the order of the source."""
        order = list(range(len(rows)))
        if self.shuffle:
            random.Random(self.seed).shuffle(order)
        parts: dict[str, list[Record]] = {}
        for split in ("test", "val"):
            share = fractions.get(split, 0.0)
            if share:
                keep = len(order) - round(share * len(rows))
                parts[split] = [rows[index] for index in sorted(order[keep:])]
                order = order[:keep]
        return parts | {"train": [rows[index] for index in sorted(order)]}


def described(source: Source) -> dict[str, Any]:
    """A source and its state as plain data."""
    return {"settings": repr(source), "state": source.state()}


def existing(path: str, what: str) -> Path:
    """A path as people write it, refused when nothing is there."""
    found = Path(path).expanduser().absolute()
    if not found.exists():
        raise ConfigError(f"There is no {what} {found}.", "Set data.path to where your data lies.")
    return found


def file_state(*files: Path) -> str:
    """Sizes and times of change of some files, in brief."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}.") from error
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
