"""Workers as plain processes of this machine, in torchrun's environment: for hosts without Ray, for a bare GPU host.

By hand:  torchrun --nproc-per-node 2 -m orchestrator.runtime.launchers.torchrun LAUNCH.json

The driver starts them itself: torchrun is one more process, which imports torch before the workers begin to.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.foundation.storage import write_atomically
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.base import (
    Ended,
    Outlook,
    die_with_parent,
    kill_child,
    read_launch,
    start_child,
    write_launch,
)
from orchestrator.runtime.launchers.ray.slots import Seat
from orchestrator.runtime.worker.context import Launch, StoreContext

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

MEETING = "ORCHESTRATOR_MEETING"
"""Names the file in which rank 0 tells the others the port at which they meet."""
HERE = "127.0.0.1"
LOOK_S = 0.05


class TorchrunLauncher:
    """All workers on this machine, as children of the driver."""

    def __init__(self) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._outlook = Outlook()
        self._ended: Ended | None = None

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Start as many workers as the launch says: on this machine there is always the same room."""
        self.close()
        self._scratch = tempfile.TemporaryDirectory(prefix="orchestrator-launch-")
        launch_file = self._folder / "launch.json"
        write_launch(launch_file, launch, resources)
        command = [sys.executable, "-m", "orchestrator.runtime.launchers.torchrun", str(launch_file)]
        size = launch.world_size
        for rank in range(size):
            seat = Seat(rank=rank, world_size=size, local_rank=rank, local_world_size=size, node_rank=0, nodes=1)
            environment = {**seat.environment(HERE, 0), MEETING: str(self._folder / "port")}
            self._workers.append(start_child(command, self._log(rank), resources, more=environment))
        self._outlook = Outlook(workers=size, room=size, placed=dict.fromkeys(range(size), socket.gethostname()))

    def poll(self) -> Ended | None:
        """Who fails ends all: the others would wait for it."""
        if self._ended is None and self._workers:
            codes = {rank: worker.poll() for rank, worker in enumerate(self._workers)}
            if failed := {rank: code for rank, code in codes.items() if code}:
                self.kill()
                lost = tuple(rank for rank, code in failed.items() if code < 0)
                self._ended = Ended(error=self._told(failed), lost=lost)
            elif None not in codes.values():
                self._ended = Ended()
        return self._ended

    def outlook(self) -> Outlook:
        """As many workers as were asked for."""
        return self._outlook

    def kill(self) -> None:
        """End the workers that are left."""
        for worker in self._workers:
            kill_child(worker)

    def close(self) -> None:
        """End what still runs and remove the scratch folder."""
        self.kill()
        self._workers, self._ended = [], None
        if self._scratch:
            self._scratch.cleanup()
            self._scratch = None

    def _told(self, failed: dict[int, int]) -> str:
        """The workers that were killed explain the others; else the first that failed, with its last words."""
        if killed := [rank for rank, code in failed.items() if code < 0]:
            return ", ".join(f"worker {rank} was ended by {signal.Signals(-failed[rank]).name}" for rank in killed)
        rank, code = next(iter(failed.items()))
        lines = self._log(rank).read_text(errors="replace").strip().splitlines()
        return f"worker {rank} ended with exit code {code}" + (f": {lines[-1].strip()}" if lines else "")

    def _log(self, rank: int) -> Path:
        """What a worker says before its own log is there."""
        return self._folder / f"log-{rank}"

    @property
    def _folder(self) -> Path:
        return Path(self._scratch.name) if self._scratch else Path()


class TorchrunContext(StoreContext):
    """A worker's world as torchrun's environment variables tell it."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(
            launch,
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
            node_rank=int(os.environ["GROUP_RANK"]),
        )


def _meet(file: Path, rank: int) -> Store:
    """The store through which the workers find each other: rank 0 takes a port that is free, and keeps it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if rank == 0:
        store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
        write_atomically(file, str(store.port).encode())
    else:
        while not file.exists():
            time.sleep(LOOK_S)
        store = TCPStore(HERE, int(file.read_text()), is_master=False)
    os.environ["MASTER_PORT"] = str(store.port)
    return store


def main() -> None:
    """What runs in each worker process, whether the driver or torchrun has started it."""
    die_with_parent()
    import torch
    import torch.distributed as dist

    from orchestrator.runtime.worker.boot import run_entry

    launch, resources = read_launch(sys.argv[1])
    ctx = TorchrunContext(launch)
    if resources.gpus:
        torch.cuda.set_device(ctx.local_rank)
    meeting = os.environ.get(MEETING)
    store = _meet(Path(meeting), ctx.rank) if meeting else None
    dist.init_process_group("nccl" if resources.gpus else "gloo", store=store, rank=ctx.rank, world_size=ctx.world_size)
    try:
        run_entry(ctx)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
