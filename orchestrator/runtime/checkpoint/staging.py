"""How a checkpoint comes to be there as a whole or not at all: all workers' files first, then one act that counts.

On a file system the files lie under a name that nobody reads until all of them and their folder are on the disk, and a
rename makes it the checkpoint. Other stores have no rename; there SHA256SUMS, written last, is what makes it one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from orchestrator.errors import StorageError
from orchestrator.foundation.storage import LocalStore, Store, medium, sync_folder, write_atomically
from orchestrator.runtime.checkpoint.catalog import WRITING
from orchestrator.runtime.checkpoint.shards import MANIFEST, SUMS, ShardIndex, index_name, shard_name, sums_text

WAIT_S = 1800.0
"""For the other workers' files; when one has died, the whole gang ends sooner than that."""
LOOK_S, REMOTE_LOOK_S = 0.02, 1.0


class Staging(Protocol):
    """The place of one checkpoint while it is written."""

    look_interval: float

    def put(self, rank: int, write: Callable[[Path], ShardIndex]) -> None:
        """Bring in one rank's shard and, after it, its index. `write` fills a file and says what is in it."""

    def index(self, rank: int) -> str | None:
        """A rank's index, once it is there; after its shard."""

    def commit(self, files: dict[str, str]) -> None:
        """Add files by name and content, in this order, and make it the checkpoint."""


class LocalStaging:
    """On a file system."""

    look_interval = LOOK_S

    def __init__(self, store: LocalStore, name: str) -> None:
        self._target = store.path / name
        self._folder = store.path / f"{WRITING}{name}"

    def put(self, rank: int, write: Callable[[Path], ShardIndex]) -> None:
        """Write into the folder that nobody reads."""
        with medium("write", str(self._folder)):
            self._folder.mkdir(parents=True, exist_ok=True)
            index = write(self._folder / shard_name(rank))
            # As soon as the last index is there, rank 0 may sync the folder and rename it: nothing may touch it by this
            # name afterwards, or a worker fails after a checkpoint that is whole.
            write_atomically(self._folder / index_name(rank), index.to_json().encode(), sync_name=False)

    def index(self, rank: int) -> str | None:
        """Look for the file."""
        path = self._folder / index_name(rank)
        with medium("read", str(path)):
            return path.read_text() if path.exists() else None

    def commit(self, files: dict[str, str]) -> None:
        """Rename the folder, after all in it is on the disk."""
        with medium("write", str(self._target)):
            for name, text in files.items():
                write_atomically(self._folder / name, text.encode())
            sync_folder(self._folder)
            self._folder.rename(self._target)
            sync_folder(self._target.parent)


class RemoteStaging:
    """In a store that has no rename."""

    look_interval = REMOTE_LOOK_S

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name

    def put(self, rank: int, write: Callable[[Path], ShardIndex]) -> None:
        """Write here, then copy there; the index goes last."""
        with tempfile.TemporaryDirectory(prefix="orchestrator-checkpoint-") as scratch:
            index = write(Path(scratch) / shard_name(rank))
            (Path(scratch) / index_name(rank)).write_text(index.to_json())
            self._store.upload(Path(scratch), self._name)

    def index(self, rank: int) -> str | None:
        """Ask for the object."""
        try:
            return self._store.read(f"{self._name}/{index_name(rank)}")
        except FileNotFoundError:
            return None

    def commit(self, files: dict[str, str]) -> None:
        """SHA256SUMS comes last, and makes it count."""
        for name, text in files.items():
            self._store.write(f"{self._name}/{name}", text)


def stage(store: Store, name: str) -> Staging:
    """The staging of one checkpoint."""
    return LocalStaging(store, name) if isinstance(store, LocalStore) else RemoteStaging(store, name)


def finish(staging: Staging, world_size: int, manifest: str, may_commit: Callable[[], None]) -> None:
    """On rank 0: wait for all ranks' files, and commit. `may_commit` raises when this attempt no longer may."""
    sums = {MANIFEST: hashlib.sha256(manifest.encode()).hexdigest()}
    for rank, text in enumerate(_indexes(staging, world_size)):
        sums[index_name(rank)] = hashlib.sha256(text.encode()).hexdigest()
        sums[shard_name(rank)] = ShardIndex.from_json(text).sha256
    may_commit()
    staging.commit({MANIFEST: manifest, SUMS: sums_text(sums)})


def _indexes(staging: Staging, world_size: int) -> list[str]:
    found: dict[int, str] = {}
    deadline = time.monotonic() + WAIT_S
    while len(found) < world_size:
        for rank in range(world_size):
            if rank not in found and (text := staging.index(rank)) is not None:
                found[rank] = text
        if len(found) < world_size:
            if time.monotonic() > deadline:
                missing = ", ".join(str(rank) for rank in range(world_size) if rank not in found)
                raise StorageError(f"Workers {missing} have not written their part of a checkpoint in {WAIT_S:g} s.")
            time.sleep(staging.look_interval)
    return [found[rank] for rank in range(world_size)]


def check_space(store: Store, needed: int) -> None:
    """Refuse early what a file system has no room for."""
    if not isinstance(store, LocalStore):
        return
    place = next(path for path in (store.path, *store.path.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise StorageError(
            f"A checkpoint takes {needed / 1e9:.3g} GB, and {store.path} has {free / 1e9:.3g} GB left.",
            "Free some space, keep fewer (checkpoint.keep, checkpoint.best=false), or set storage.path elsewhere.",
        )
