"""All that worker code sees of the world. Whoever starts workers implements it; the worker knows nothing of Ray."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import Store, open_store

LOOK_INTERVAL_S = 0.5
REMOTE_LOOK_INTERVAL_S = 3.0
"""Between two looks for a stop request: in an object store each costs time and money."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What a launcher hands to each worker: plain data, so that it crosses any process border."""

    run_id: str
    attempt: int
    root: str
    """The run's folder or URL."""
    project: str
    """Folder of the user's code, put on the workers' import path."""
    world_size: int
    plan: dict[str, Any]
    tracking: dict[str, str] = field(default_factory=dict)
    """Variables with which a person's own script finds the run in MLflow."""
    entry: str = "orchestrator.runtime.worker.train:train"
    """The function each worker runs, as `module:function`; it takes a WorkerContext."""
    package: str = ""
    """Where a submitted project lies in run storage; empty: `project` is a folder on every node."""
    keeps_data: bool = False
    """Leave the data in memory for further launches of the same workers."""
    pause_at: float | None = None
    """Save and end here, as a trial of a sweep does for a decision: epochs, or steps where the job says steps."""


class WorkerContext(Protocol):
    """One worker's view of its run. When `entry` is called, ranks are known and the process group is up."""

    launch: Launch
    rank: int
    world_size: int
    local_rank: int
    """Number of this worker among those of its node."""
    node_rank: int

    def report(self, metrics: Mapping[str, float], checkpoint: str | None = None) -> None:
        """Tell the launcher about a milestone (evaluation, checkpoint). Not for every step. Does not raise."""

    def should_stop(self) -> bool:
        """Whether someone asked this run to save and end. Cheap; may differ between ranks for a moment."""

    def pause_after(self, steps: int) -> None:
        """Have `should_stop` say so after so many further steps."""

    @property
    def checkpoints(self) -> Store:
        """Where checkpoints of this run lie; the same for all ranks."""


class StoreContext:
    """What is the same for every launcher: run storage carries stop requests and checkpoints."""

    def __init__(self, launch: Launch, *, rank: int, world_size: int, local_rank: int, node_rank: int) -> None:
        self.launch = launch
        self.rank = rank
        self.world_size = world_size
        self.local_rank = local_rank
        self.node_rank = node_rank
        self._store = open_store(launch.root)
        self._look_interval = REMOTE_LOOK_INTERVAL_S if paths.is_url(launch.root) else LOOK_INTERVAL_S
        self._looked = -math.inf
        self._stop = False
        self._left: int | None = None

    def report(self, metrics: Mapping[str, float], checkpoint: str | None = None) -> None:
        """Nothing to tell by default: events in run storage say it all."""

    def should_stop(self) -> bool:
        """Whether the stop file lies in the run's folder; looked up now and then, since that may go over a network.

        A store that does not answer for a moment has not asked to stop. It is asked once before each step.
        """
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                return True
        now = time.monotonic()
        if not self._stop and now - self._looked >= self._look_interval:
            self._looked = now
            with contextlib.suppress(StorageError):
                self._stop = self._store.exists(paths.STOP)
        return self._stop

    def pause_after(self, steps: int) -> None:
        """Count the steps from here on."""
        self._left = steps

    @property
    def checkpoints(self) -> Store:
        """The run's checkpoint folder."""
        return self._store.child(paths.CHECKPOINTS)
