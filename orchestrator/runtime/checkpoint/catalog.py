"""The checkpoints that a run has: which count, whether they are whole, and what is in them.

A checkpoint is a folder named by its step and the attempt that saved it, `step-00000120-a1`. It counts when it has its
SHA256SUMS, which is written last, and when the fence admits it: each attempt begins by writing down its number and the
checkpoints it found. What an older attempt, cut off but still alive, brings in afterwards counts for nobody.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import StaleAttemptError, StorageError
from orchestrator.foundation.storage import Store
from orchestrator.records.events import in_words, metrics_from
from orchestrator.runtime.checkpoint.shards import (
    MANIFEST,
    SUMS,
    ShardReader,
    index_name,
    parse_sums,
    sha256_of,
    shard_name,
)

FENCE = "fence.json"
LATEST = "latest"
"""Names the newest checkpoint, for people and scripts."""
WRITING = ".writing-"
"""On file systems, what a checkpoint's name begins with until it is complete."""
NAME = re.compile(r"step-(\d{8,})-a(\d+)")


@dataclass(kw_only=True, slots=True)
class Progress:
    """What training knows beside the weights and the optimizer; the step number is also the position in the data."""

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    """All validation metrics at the best step."""
    stale: int = 0
    """Evaluations since the monitored metric got better."""
    evaluated_step: int = -1
    """The last step whose weights were evaluated."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        data: dict[str, Any] = in_words(asdict(self))
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Progress:
        """Read what `to_dict` wrote."""
        best = None if data["best"] is None else float(data["best"])
        return cls(**{**data, "best": best, "best_metrics": metrics_from(data["best_metrics"])})


def checkpoint_name(step: int, attempt: int) -> str:
    """The folder of a checkpoint."""
    return f"step-{step:08d}-a{attempt}"


def step_of(name: str) -> int:
    """The step at which a checkpoint was saved."""
    return _numbers(name)[0]


def _numbers(name: str) -> tuple[int, int]:
    match = NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else (-1, -1)


class Catalog:
    """The checkpoint folder of one run."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> list[str]:
        """Checkpoints that count, oldest first."""
        fence = self._fence()
        found = sorted((name for name in self.store.list() if NAME.fullmatch(name)), key=_numbers)
        return [name for name in found if _is_admitted(name, fence) and self.store.exists(f"{name}/{SUMS}")]

    def last(self) -> str | None:
        """The newest checkpoint that counts."""
        names = self.names()
        return names[-1] if names else None

    def at_step(self, step: int | None) -> str | None:
        """The checkpoint saved at a step."""
        return next((name for name in reversed(self.names()) if step_of(name) == step), None)

    def raise_fence(self, attempt: int) -> None:
        """Begin an attempt: from now on no older one can add a checkpoint."""
        self.check_fence(attempt)
        self.store.write(FENCE, json.dumps({"attempt": attempt, "admitted": self.names()}) + "\n")
        self.clear()

    def check_fence(self, attempt: int) -> None:
        """Refuse to go on when a newer attempt has begun."""
        fence = self._fence()
        if fence and fence["attempt"] > attempt:
            raise StaleAttemptError(
                f"Attempt {attempt} of this run saves nothing more: attempt {fence['attempt']} has taken over.",
                "Nothing is to be done: the newer attempt goes on.",
            )

    def clear(self) -> None:
        """Remove what does not count: the unfinished, and what stale attempts left."""
        counted = self.names()
        for name in self.store.list():
            if name.startswith(WRITING) or (NAME.fullmatch(name) and name not in counted):
                self.store.remove(name)

    def disown(self, name: str) -> None:
        """Let a damaged checkpoint no longer count."""
        fence = self._fence()
        admitted = [other for other in self.names() if other != name]
        self.store.write(FENCE, json.dumps({"attempt": fence["attempt"] if fence else 0, "admitted": admitted}) + "\n")

    def retire(self, *, keep: int, keep_every: int | None, best_step: int | None) -> None:
        """Remove old checkpoints: not the newest `keep`, the best, or the first at or after each `keep_every` steps."""
        names = self.names()
        for number, name in enumerate(names[:-keep]):
            step, before = step_of(name), step_of(names[number - 1]) if number else 0
            milestone = keep_every is not None and step // keep_every > before // keep_every
            if step != best_step and not milestone:
                self.store.remove(name)

    def manifest(self, name: str) -> dict[str, Any]:
        """What was known when a checkpoint was saved."""
        data: dict[str, Any] = json.loads(self.store.read(f"{name}/{MANIFEST}"))
        return data

    def progress(self, name: str) -> Progress:
        """How far training was."""
        return Progress.from_dict(self.manifest(name)["progress"])

    @contextmanager
    def opened(self, name: str) -> Iterator[OpenCheckpoint]:
        """A checkpoint's files, copied here where they lie in a store far away."""
        with tempfile.TemporaryDirectory(prefix="orchestrator-checkpoint-") as scratch:
            yield OpenCheckpoint(self.store, name, Path(scratch))

    def _fence(self) -> dict[str, Any] | None:
        try:
            data: dict[str, Any] = json.loads(self.store.read(FENCE))
        except FileNotFoundError:
            return None
        return data


def _is_admitted(name: str, fence: dict[str, Any] | None) -> bool:
    return fence is None or name in fence["admitted"] or _numbers(name)[1] == fence["attempt"]


class OpenCheckpoint:
    """One checkpoint's files, each fetched once."""

    def __init__(self, store: Store, name: str, scratch: Path) -> None:
        self.name = name
        self._store = store
        self._scratch = scratch
        self._fetched: dict[str, Path] = {}

    def file(self, name: str) -> Path:
        """A local path to one of its files."""
        if name not in self._fetched:
            self._fetched[name] = self._store.fetch(f"{self.name}/{name}", self._scratch)
        return self._fetched[name]

    def world_size(self) -> int:
        """How many workers saved it; 0 when its manifest is damaged."""
        return 0 if self.damage([MANIFEST]) else int(json.loads(self.file(MANIFEST).read_text())["world_size"])

    def files(self) -> list[str]:
        """All files it must have, beside SHA256SUMS."""
        ranks = range(self.world_size())
        return [MANIFEST, *map(index_name, ranks), *map(shard_name, ranks)]

    def damage(self, files: Iterable[str]) -> str | None:
        """What is wrong with some of its files, in words; None when each is as it was written."""
        sums = parse_sums(self.file(SUMS).read_text(errors="replace"))
        for name in files:
            if name not in sums:
                return f"{SUMS} does not list {name}"
            try:
                if sha256_of(self.file(name)) != sums[name]:
                    return f"{name} is not as it was written (SHA-256)"
            except (FileNotFoundError, IsADirectoryError):
                return f"{name} is missing"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
        return None

    def whole_damage(self) -> str | None:
        """What is wrong with the checkpoint; every file is read."""
        return self.damage([MANIFEST]) or self.damage(self.files())

    def reader(self) -> ShardReader:
        """Its tensors; to be asked for only when it is whole."""
        return ShardReader(json.loads(self.file(MANIFEST).read_text()), self.file)


def require(catalog: Catalog, name: str | None) -> str:
    """A checkpoint's name by its name, its step, or none for the newest; an error that lists those there are."""
    names = catalog.names()
    if not names:
        raise StorageError(f"There is no checkpoint in {catalog.store.root}.", "The run has not saved one yet.")
    if name is None:
        return names[-1]
    wanted = name if NAME.fullmatch(name) else catalog.at_step(int(name)) if name.isdigit() else None
    if wanted not in names:
        raise StorageError(f"There is no checkpoint {name} in {catalog.store.root}.", f"There are: {', '.join(names)}.")
    return wanted
