"""Workers under torchrun: for hosts without Ray, for benchmarks, for a bare GPU host.

By hand:  torchrun --nproc-per-node 2 -m orchestrator.runtime.torchrun LAUNCH.json
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from orchestrator.runtime.context import Launch, StoreContext
from orchestrator.runtime.launcher import ProcessLauncher, die_with_parent, read_launch


class TorchrunLauncher(ProcessLauncher):
    """All workers on this machine, as children of one torchrun."""

    def command(self, launch: Launch, launch_file: Path) -> list[str]:
        """Run this very environment's torchrun, with workers that run this module."""
        workers = ["--nproc-per-node", str(launch.world_size)]
        meeting = ["--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
        return [
            *(sys.executable, "-m", "torch.distributed.run", *workers, *meeting),
            *("-m", "orchestrator.runtime.torchrun", str(launch_file)),
        ]

    def last_words(self, code: int, folder: Path) -> str:
        """The signal that ended a worker, when one did."""
        text = (folder / "log").read_text(errors="replace")
        signals = [line.strip() for line in text.splitlines() if "Signal" in line and "received" in line]
        return signals[0] if signals else f"torchrun ended with exit code {code}"


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
