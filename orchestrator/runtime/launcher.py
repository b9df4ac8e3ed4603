"""Who starts workers, as the driver sees it: always a process of its own, which cannot take the driver along."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config.schema import JobSpec, LauncherName
from orchestrator.errors import MachineError
from orchestrator.plan.types import WorkerResources
from orchestrator.runtime.context import Launch
from orchestrator.storage import write_atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The workers are gone. An empty error: all returned in order."""

    error: str = ""


class Launcher(Protocol):
    """Starts one gang of workers and watches it. One launch per object."""

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Begin to start the workers; returns at once."""

    def poll(self) -> Ended | None:
        """None while workers live or are being started; does not block. Raises MachineError when they cannot start."""

    def kill(self) -> None:
        """End the workers at once, without saving. Idempotent."""

    def close(self) -> None:
        """Let go of everything this launcher started, also of a Ray of our own. Idempotent; called in any case."""


def make_launcher(spec: JobSpec) -> Launcher:
    """The launcher that the config names."""
    if spec.cluster.launcher is LauncherName.torchrun:
        from orchestrator.runtime.torchrun import TorchrunLauncher

        return TorchrunLauncher()
    from orchestrator.runtime.ray_launcher import RayLauncher

    return RayLauncher(spec.cluster.address)


class ProcessLauncher:
    """A launcher that is a child process; subclasses say with which command, and how to read what it left."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def command(self, launch: Launch, launch_file: Path) -> list[str]:
        """What to run; the Launch lies in `launch_file`."""
        raise NotImplementedError

    def last_words(self, code: int, folder: Path) -> str:
        """Why the child ended with an exit code other than 0."""
        raise NotImplementedError

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Start the child in a session of its own: Ctrl-C on the terminal reaches the driver alone."""
        self._scratch = tempfile.TemporaryDirectory(prefix="orchestrator-launch-")
        folder = Path(self._scratch.name)
        launch_file = folder / "launch.json"
        launch_file.write_text(
            json.dumps({"launch": dataclasses.asdict(launch), "resources": dataclasses.asdict(resources)})
        )
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(launch, launch_file),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": str(resources.threads)},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def poll(self) -> Ended | None:
        """The child's end is the end of all workers."""
        if self._process is None or self._process.poll() is None:
            return None
        code, folder = self._process.returncode, Path(self._scratch.name) if self._scratch else Path()
        if code == 0:
            return Ended()
        refused = folder / "machine-error.json"
        if refused.exists():
            raise MachineError(**json.loads(refused.read_text()))
        return Ended(error=self.last_words(code, folder))

    def kill(self) -> None:
        """End the child and all in its session."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """End what still runs and remove the scratch folder."""
        self.kill()
        if self._scratch:
            self._scratch.cleanup()
            self._scratch = None


def read_launch(file: str) -> tuple[Launch, WorkerResources]:
    """In the child: what the driver asked for."""
    data: dict[str, Any] = json.loads(Path(file).read_text())
    return Launch(**data["launch"]), WorkerResources(**data["resources"])


def write_machine_error(launch_file: str, error: MachineError) -> None:
    """In the child: leave a reason why workers can never start, for `poll` to raise in the driver."""
    text = json.dumps({"message": error.message, "hint": error.hint})
    write_atomically(Path(launch_file).parent / "machine-error.json", text.encode())


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)
