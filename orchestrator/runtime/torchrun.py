"""Workers under torchrun: for hosts without Ray, for benchmarks, for a bare GPU host.

By hand:  torchrun --nproc-per-node 2 -m orchestrator.runtime.torchrun LAUNCH.json
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.plan.types import WorkerResources
from orchestrator.runtime.context import Launch, StoreContext
from orchestrator.runtime.launcher import Ended


class TorchrunLauncher:
    """All workers on this machine, as children of one torchrun."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Start torchrun in a session of its own, so that Ctrl-C reaches the driver alone."""
        self._scratch = tempfile.TemporaryDirectory(prefix="orchestrator-launch-")
        folder = Path(self._scratch.name)
        (folder / "launch.json").write_text(json.dumps(dataclasses.asdict(launch)))
        command = [sys.executable, "-m", "torch.distributed.run"]
        command += ["--nproc-per-node", str(launch.world_size), "--master-addr", "127.0.0.1"]
        command += [
            "--master-port",
            str(_free_port()),
            "-m",
            "orchestrator.runtime.torchrun",
            str(folder / "launch.json"),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(resources.threads)}
        with (folder / "torchrun.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def poll(self) -> Ended | None:
        """The exit of torchrun is the end of all workers."""
        if self._process is None or self._process.poll() is None:
            return None
        return Ended(error="" if self._process.returncode == 0 else self._last_words())

    def kill(self) -> None:
        """End torchrun and its workers."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """End what still runs and remove the scratch folder."""
        self.kill()
        if self._scratch:
            self._scratch.cleanup()
            self._scratch = None

    def _last_words(self) -> str:
        code = self._process.returncode if self._process else 0
        text = (Path(self._scratch.name) / "torchrun.log").read_text(errors="replace") if self._scratch else ""
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


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


def main() -> None:
    """What torchrun runs in each worker process."""
    _die_with_parent()
    import torch
    import torch.distributed as dist

    from orchestrator.runtime.boot import run_entry

    launch = Launch(**_read(sys.argv[1]))
    gpus: float = launch.plan["resources"]["gpus"] if launch.plan else 0
    ctx = TorchrunContext(launch)
    if gpus:
        torch.cuda.set_device(ctx.local_rank)
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        run_entry(ctx)
    finally:
        dist.destroy_process_group()


def _read(path: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(path).read_text())
    return data


if __name__ == "__main__":
    main()
