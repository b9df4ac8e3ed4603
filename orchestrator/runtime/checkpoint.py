"""Checkpoints of a run: committed as a whole or not there, found again, the old ones removed.

A checkpoint is a folder `step-00000120` with DeepSpeed's files and `state.json`; the latter is written last, so a
folder without it is an unfinished one. On file systems the folder also gets its name only when it is complete, and
in other stores every worker adds its files to it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.storage import LocalStore, Store, sync_folder, sync_tree
from orchestrator.tracking.events import in_words, metrics_from

STATE = "state.json"
WRITING = ".writing"
"""On file systems, the folder in which a checkpoint lies until it is complete."""


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


class Checkpoints:
    """The checkpoints of one run, as one rank sees them. All ranks call `save` and `load`."""

    def __init__(self, store: Store, *, rank: int, world_size: int, barrier: Callable[[], None], keep: int) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._barrier = barrier
        self._keep = keep

    def names(self) -> list[str]:
        """Committed checkpoints, oldest first."""
        found = [name for name in self._store.list() if name.startswith("step-")]
        return [name for name in found if self._store.exists(f"{name}/{STATE}")]

    def last(self) -> str | None:
        """The newest committed checkpoint."""
        names = self.names()
        return names[-1] if names else None

    def progress(self, name: str) -> Progress:
        """What was known when a checkpoint was saved; refuses one that this world size cannot load."""
        state = json.loads(self._store.read(f"{name}/{STATE}"))
        if state["world_size"] != self._world_size:
            raise PlanError(
                f"Checkpoint {name} was saved by {state['world_size']} workers and cannot be loaded by "
                f"{self._world_size}.",
                f"Resume with cluster.workers={state['world_size']}.",
            )
        return Progress.from_dict(state["progress"])

    def clear_unfinished(self) -> None:
        """Remove what an attempt that died left half written: its files may not get into a checkpoint of this one."""
        committed = self.names()
        for name in self._store.list():
            if name == WRITING or (name.startswith("step-") and name not in committed):
                self._store.remove(name)

    def save(self, progress: Progress, write: Callable[[Path, str], None]) -> str:
        """Commit a checkpoint that `write(folder, tag)` fills; returns its name."""
        name = f"step-{progress.step:08d}"
        if self._store.exists(f"{name}/{STATE}"):
            return name
        if isinstance(self._store, LocalStore):
            write(self._store.path / WRITING, name)
        else:
            with tempfile.TemporaryDirectory(prefix="orchestrator-checkpoint-") as scratch:
                write(Path(scratch), name)
                self._store.upload(Path(scratch) / name, name)
        self._barrier()
        if self._rank == 0:
            self._commit(name, progress)
            self._retire(progress)
        self._barrier()
        return name

    def load(self, name: str, read: Callable[[Path, str], None]) -> None:
        """Let `read(folder, tag)` take up a checkpoint."""
        with tempfile.TemporaryDirectory(prefix="orchestrator-checkpoint-") as scratch:
            read(self._store.download(name, Path(scratch)).parent, name)
            self._barrier()

    def _commit(self, name: str, progress: Progress) -> None:
        state = {"world_size": self._world_size, "progress": progress.to_dict()}
        text = json.dumps(state, indent=2, allow_nan=False) + "\n"
        if isinstance(self._store, LocalStore):
            writing = self._store.path / WRITING / name
            (writing / STATE).write_text(text)
            sync_tree(writing)
            writing.replace(self._store.path / name)
            sync_folder(self._store.path)
        else:
            self._store.write(f"{name}/{STATE}", text)

    def _retire(self, progress: Progress) -> None:
        best = f"step-{progress.best_step:08d}" if progress.best_step is not None else None
        for name in self.names()[: -self._keep]:
            if name != best:
                self._store.remove(name)
