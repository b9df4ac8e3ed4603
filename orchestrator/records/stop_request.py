"""A request that a run end, kept in the run's folder."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRequest:
    """A person's request that a run end, as it lies in the run's folder."""

    now: bool = False
    """At once, without saving."""
    grace_s: float = 120.0
    """Time to save and end; then at once."""
    time: float = 0.0

    def write(self, store: Store) -> None:
        """Ask the driver of the run in a folder to stop it."""
        store.write(paths.STOP_REQUEST, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, store: Store) -> StopRequest | None:
        """What somebody asked for; None when nobody did, or storage does not answer at the moment."""
        with contextlib.suppress(FileNotFoundError, StorageError):
            return cls(**json.loads(store.read(paths.STOP_REQUEST)))
        return None
