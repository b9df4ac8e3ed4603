"""Saving and loading a run's training state, as one worker of a gang. All ranks call every method.

Checkpoints are our own, named tensors in safetensors: DeepSpeed's (0.19) are written in place, are pickle files, and
cannot be loaded by another number of workers; its universal format leaves out buffers and frozen parameters. The price
is that `states.py` knows where DeepSpeed keeps its flat buffers; integration tests hold it to that.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from orchestrator.errors import StorageError
from orchestrator.foundation.storage import Store
from orchestrator.runtime.checkpoint import staging
from orchestrator.runtime.checkpoint.catalog import LATEST, Catalog, OpenCheckpoint, Progress, checkpoint_name
from orchestrator.runtime.checkpoint.shards import (
    FORMAT,
    MANIFEST,
    Piece,
    ShardReader,
    index_name,
    shard_name,
    write_shard,
)


class Gang(Protocol):
    """How ranks agree."""

    def sum(self, values: list[float]) -> list[float]:
        """Each value's sum over the ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Training state at one step, as this rank holds it."""

    pieces: Sequence[Piece]
    scalars: dict[str, dict[str, Any]]
    about: dict[str, Any]
    """What the manifest says of it: mesh, strategy, precision, scaler, aliases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which checkpoints are kept."""

    keep: int = 2
    keep_every: int | None = None


@dataclass(kw_only=True)
class Found:
    """What a new attempt found."""

    name: str | None = None
    progress: Progress = field(default_factory=Progress)
    passed_over: list[str] = field(default_factory=list)
    """Why newer checkpoints were not taken up, in words."""


class Checkpoints:
    """The checkpoints of one run, as one rank sees them."""

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world_size: int,
        attempt: int,
        gang: Gang,
        retention: Retention,
        asynchronous: bool = True,
    ) -> None:
        self.catalog = Catalog(store)
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._attempt = attempt
        self._gang = gang
        self._retention = retention
        self._asynchronous = asynchronous
        self._memory = HostMemory()
        self._running: _Save | None = None
        self._committed: list[str] = []

    def begin(self) -> None:
        """Take the run over from older attempts."""
        if self._rank == 0:
            self.catalog.raise_fence(self._attempt)
        self._gang.barrier()

    def load_newest(self, take: Callable[[ShardReader], None]) -> Found:
        """Let `take` have the newest checkpoint that is whole."""
        found = Found()
        names = self.catalog.names()
        self._gang.barrier()
        for name in reversed(names):
            damage = self._load(name, take)
            if damage is None:
                found.name, found.progress = name, self.catalog.progress(name)
                return found
            found.passed_over.append(f"checkpoint {name} is passed over: {damage}")
            if self._rank == 0:
                self.catalog.disown(name)
            self._gang.barrier()
        if names:
            raise StorageError(
                f"None of the {len(names)} checkpoints in {self._store.root} is whole: "
                + "; ".join(found.passed_over)
                + ".",
                "To start from nothing, start a new run.",
            )
        return found

    def load(self, name: str, take: Callable[[ShardReader], None]) -> None:
        """Let `take` have a checkpoint."""
        damage = self._load(name, take)
        if damage:
            raise StorageError(f"Checkpoint {name} cannot be loaded: {damage}.", "Choose another one.")

    def save(self, progress: Progress, snapshot: Snapshot) -> str:
        """Begin to save: copy what the snapshot holds; the rest happens beside training. Waits for the save before."""
        self._finish_running()
        name = checkpoint_name(progress.step, self._attempt)
        size = sum(piece.values.numel() * piece.values.element_size() for piece in snapshot.pieces)
        staging.check_space(self._store, size * self._world_size)
        pieces = self._memory.copies(snapshot.pieces) if self._asynchronous else snapshot.pieces
        manifest = {
            "format": FORMAT,
            "name": name,
            "attempt": self._attempt,
            "world_size": self._world_size,
            **snapshot.about,
            "progress": progress.to_dict(),
        }
        text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        best_step = progress.best_step
        self._running = _Save(name, lambda: self._write(name, pieces, snapshot.scalars, text, best_step))
        if not self._asynchronous:
            self._finish_running()
        return name

    def warm(self, snapshot: Snapshot) -> None:
        """Make room on the host for copies of such a snapshot, beside training."""
        if self._asynchronous:
            self._memory.prepare(snapshot.pieces)

    def poll(self) -> list[str]:
        """On rank 0, the names of checkpoints committed since the last call. Raises what went wrong with a save."""
        if self._running and self._running.is_done():
            self._finish_running()
        committed, self._committed = self._committed, []
        return committed

    def settle(self) -> list[str]:
        """Wait until what was saved counts, on all ranks; what `poll` says then."""
        self._finish_running()
        self._gang.barrier()
        return self.poll()

    def _finish_running(self) -> None:
        running, self._running = self._running, None
        if running:
            running.result()
            if self._rank == 0:
                self._committed.append(running.name)

    def _write(
        self, name: str, pieces: Sequence[Piece], scalars: dict[str, dict[str, Any]], manifest: str, best: int | None
    ) -> None:
        place = staging.stage(self._store, name)
        place.put(self._rank, lambda path: write_shard(path, pieces, scalars))
        if self._rank == 0:
            staging.finish(place, self._world_size, manifest, lambda: self.catalog.check_fence(self._attempt))
            self._store.write(LATEST, f"{name}\n")
            kept = self._retention
            self.catalog.retire(keep=kept.keep, keep_every=kept.keep_every, best_step=best)

    def _load(self, name: str, take: Callable[[ShardReader], None]) -> str | None:
        with self.catalog.opened(name) as checkpoint:
            damage = self._damage(checkpoint)
            if damage is None:
                take(checkpoint.reader())
            self._gang.barrier()
        return damage

    def _damage(self, checkpoint: OpenCheckpoint) -> str | None:
        """What is wrong with a checkpoint; each rank reads a share of the files, and all come to the same answer."""
        writers = checkpoint.world_size()
        (agreed,) = self._gang.sum([float(writers)])
        if not writers or agreed != writers * self._world_size:
            return checkpoint.damage([MANIFEST]) or "its manifest is not the same for all workers"
        mine = range(self._rank, writers, self._world_size)
        bad = [float(rank in mine and checkpoint.damage(_files_of(rank)) is not None) for rank in range(writers)]
        damaged = [f"{shard_name(rank)} or its index" for rank, sum in enumerate(self._gang.sum(bad)) if sum]
        return f"{', '.join(damaged)} is not as it was written" if damaged else None


def _files_of(rank: int) -> list[str]:
    return [index_name(rank), shard_name(rank)]


class _Save:
    """A save in a thread of its own."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - a thread boundary: raised again by `result`
            self._error = error

    def is_done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> None:
        """Wait for the end; raises what went wrong."""
        self._thread.join()
        if self._error:
            raise self._error


class HostMemory:
    """Copies of state on the host, in memory that is used again: fresh memory is ten times slower to fill."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._preparing: threading.Thread | None = None

    def prepare(self, pieces: Sequence[Piece]) -> None:
        """Begin to take the memory that copies of such pieces need."""
        self._preparing = threading.Thread(target=self._fill, args=(list(pieces),), name="checkpoint memory")
        self._preparing.daemon = True
        self._preparing.start()

    def copies(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces with values that training does not change. The copies before them are overwritten."""
        if self._preparing:
            self._preparing.join()
            self._preparing = None
        copied = [dataclasses.replace(piece, values=self._buffer(piece)) for piece in pieces]
        for copy, piece in zip(copied, pieces, strict=True):
            copy.values.copy_(piece.values, non_blocking=True)
        if any(piece.values.is_cuda for piece in pieces):
            torch.cuda.synchronize()
        return copied

    def _fill(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._buffer(piece).zero_()

    def _buffer(self, piece: Piece) -> Tensor:
        values, known = piece.values, self._buffers.get(piece.name)
        if known is None or known.shape != values.shape or known.dtype != values.dtype:
            known = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
            self._buffers[piece.name] = known
        return known
