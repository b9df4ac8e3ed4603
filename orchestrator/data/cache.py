"""Prepared data on disk, found again by all that it depends on: data, code and parameters.

It is there as a whole or not at all, and made once, however many processes ask for it at the same time.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data import build, preparation
from orchestrator.data.arrays import Arrays, ArrayWriter
from orchestrator.data.preparation import Facts, Preparation
from orchestrator.data.records import NAME, Problem, Records, Splits
from orchestrator.errors import DataError, StorageError
from orchestrator.foundation.storage import sync_folder, sync_tree

FORMAT = 1
RECORD = "prepared.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Prepared data that lies on disk."""

    folder: Path
    counts: Mapping[str, int]
    """Prepared records by split."""
    facts: Facts
    problems: tuple[Problem, ...]
    """What could not be used."""
    seconds: float
    """How long it took to make."""
    built: bool = False
    """Whether it was made just now, rather than found."""

    @property
    def classes(self) -> list[str]:
        """The classes of the training split, if it has any."""
        return list(self.facts.get("classes", []))

    def arrays(self, split: str) -> Arrays | None:
        """The items of a split; None when it has none."""
        return Arrays(self.folder / split) if self.counts.get(split) else None


def default_folder() -> Path:
    """Where prepared data lies when nothing else is said."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "orchestrator" / "data"


def fingerprint(splits: Splits, prepare: Preparation) -> str:
    """Equal for equal data, code and parameters."""
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in preparation.sources(prepare)]
    with _reading():
        state = splits.state()
    parts = {
        "format": FORMAT,
        "splits": state,
        "kind": preparation.kind_of(prepare),
        "parameters": preparation.parameters(prepare),
        "code": code,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def ensure(splits: Splits, prepare: Preparation, folder: Path) -> Ready:
    """The prepared data, made now unless it is there."""
    place = folder / f"{type(prepare).__name__.lower()}-{fingerprint(splits, prepare)}"
    builder = build.current()
    try:
        ready = find(place)
        if ready is None:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(place.with_name(f".{place.name}.lock"), builder):
                ready = find(place) or _build(splits, prepare, place, builder)
    except OSError as error:
        raise StorageError(
            f"Prepared data cannot be kept in {folder}: {error.strerror or error}.",
            "Make room there, or set data.cache to another folder.",
        ) from error
    builder.used.append(ready)
    return ready


def find(place: Path) -> Ready | None:
    """What lies there, if it is complete."""
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    problems = tuple(Problem(**problem) for problem in record.pop("problems"))
    return Ready(folder=place, problems=problems, **record)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"The data cannot be read: {error.filename}: {error.strerror}.") from error


@contextmanager
def _locked(file: Path, builder: build.Builder) -> Iterator[None]:
    """Only one process of this host, or of a shared file system's; the lock ends with its process."""
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            builder.say("waiting for another process that prepares the same data")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(splits: Splits, prepare: Preparation, place: Path, builder: build.Builder) -> Ready:
    started = time.monotonic()
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with _reading():
        records = splits.read()
    facts = prepare.learn(records["train"].rows)
    problems: list[Problem] = []
    counts: dict[str, int] = {}
    for split, found in records.items():
        counts[split], unusable = _write(split, found, prepare, facts, part / split, builder)
        problems += unusable
    if not counts["train"]:
        raise nothing_left(problems)
    facts |= prepare.measure(Arrays(part / "train"))
    ready = Ready(
        folder=place,
        counts=counts,
        facts=facts,
        problems=tuple(problems),
        seconds=round(time.monotonic() - started, 3),
        built=True,
    )
    _complete(part, ready)
    return ready


def _write(
    split: str, records: Records, prepare: Preparation, facts: Facts, folder: Path, builder: build.Builder
) -> tuple[int, list[Problem]]:
    """Prepare and write the records of a split: how many there are, and which could not be used."""
    problems = [dataclasses.replace(problem, split=split) for problem in records.problems]
    count = 0
    outcomes = build.told(builder.run(records.rows, prepare, facts), len(records.rows), split, builder)
    with ArrayWriter(folder, prepare.ragged) as writer:
        for row, found in zip(records.rows, outcomes, strict=True):
            if isinstance(found, str):
                problems.append(Problem(name=str(row[NAME]), reason=found, split=split))
            else:
                writer.add(found)
                count += 1
    return count, problems


def _complete(part: Path, ready: Ready) -> None:
    record: dict[str, Any] = {
        "counts": dict(ready.counts),
        "facts": ready.facts,
        "problems": [dataclasses.asdict(problem) for problem in ready.problems],
        "seconds": ready.seconds,
    }
    (part / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    sync_tree(part)
    part.replace(ready.folder)
    sync_folder(ready.folder.parent)


def nothing_left(problems: list[Problem]) -> DataError:
    """The error for training data of which nothing could be read."""
    return DataError(f"None of the training items can be used: {listed(problems)}.")


def listed(problems: list[Problem] | tuple[Problem, ...], most: int = 10) -> str:
    """The first few problems in words."""
    if not problems:
        return "there are none"
    told = [f"{problem.name} ({problem.reason})" for problem in problems[:most]]
    return "; ".join(told) + (f"; and {len(problems) - most} more" if len(problems) > most else "")
