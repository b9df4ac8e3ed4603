"""Workers under torchrun: for hosts without Ray, for benchmarks, for a bare GPU host.

By hand:  torchrun --nproc-per-node 2 -m orchestrator.runtime.torchrun LAUNCH.json
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.plan.types import WorkerResources
from orchestrator.runtime.context import Launch, StoreContext
from orchestrator.runtime.launcher import (
    Ended,
    Outlook,
    die_with_parent,
    kill_child,
    read_launch,
    start_child,
    write_launch,
)

FAILURE = re.compile(r"^\s*rank\s*: (\d+) .*\n\s*exitcode\s*: .*\((SIG\w+)\)", re.MULTILINE)
"""How torchrun tells in its last words which signal ended which worker; SIGTERM is its own, for the others."""


class TorchrunLauncher:
    """All workers on this machine, as children of one torchrun for each attempt."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._outlook = Outlook()

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Start torchrun, with as many workers as the launch says: on this machine there is always the same room."""
        self.close()
        self._scratch = tempfile.TemporaryDirectory(prefix="orchestrator-launch-")
        launch_file = self._folder / "launch.json"
        write_launch(launch_file, launch, resources)
        self._process = start_child(_command(launch, launch_file), self._folder / "log", resources)
        here = dict.fromkeys(range(launch.world_size), socket.gethostname())
        self._outlook = Outlook(workers=launch.world_size, room=launch.world_size, placed=here)

    def poll(self) -> Ended | None:
        """The end of torchrun is the end of all workers."""
        if self._process is None or self._process.poll() is None:
            return None
        code, log = self._process.returncode, (self._folder / "log").read_text(errors="replace")
        return Ended(error=last_words(log, code), lost=tuple(killed(log))) if code else Ended()

    def outlook(self) -> Outlook:
        """As many workers as were asked for."""
        return self._outlook

    def kill(self) -> None:
        """End torchrun; its workers die with it."""
        if self._process:
            kill_child(self._process)

    def close(self) -> None:
        """End what still runs and remove the scratch folder."""
        self.kill()
        if self._scratch:
            self._scratch.cleanup()
            self._scratch = None

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


def last_words(log: str, code: int) -> str:
    """Why torchrun ended: the workers that were killed, when some were."""
    told = [f"worker {rank} was ended by {name}" for rank, name in killed(log).items()]
    return ", ".join(told) or f"torchrun ended with exit code {code}"


def killed(log: str) -> dict[int, str]:
    """The workers that a signal ended, with its name."""
    return {int(rank): name for rank, name in FAILURE.findall(log) if name != "SIGTERM"}


def _command(launch: Launch, launch_file: Path) -> list[str]:
    """Torchrun of this very environment, with workers that run this module."""
    workers = ["--nproc-per-node", str(launch.world_size)]
    meeting = ["--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
    return [
        *(sys.executable, "-m", "torch.distributed.run", *workers, *meeting),
        *("-m", "orchestrator.runtime.torchrun", str(launch_file)),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """What torchrun runs in each worker process."""
    die_with_parent()
    import torch
    import torch.distributed as dist

    from orchestrator.runtime.boot import run_entry

    launch, resources = read_launch(sys.argv[1])
    ctx = TorchrunContext(launch)
    if resources.gpus:
        torch.cuda.set_device(ctx.local_rank)
    dist.init_process_group("nccl" if resources.gpus else "gloo")
    try:
        run_entry(ctx)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
