"""Who starts workers, as the driver sees it: always a process of its own, which cannot take the driver along.

Ray's signals, threads and exits stay in that process, Ctrl-C reaches the driver alone, and the child dies with its
parent.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import MachineError
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.worker.context import Launch


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The workers are gone. An empty error: all returned in order."""

    error: str = ""
    lost: tuple[int, ...] = ()
    """Ranks of workers that died without an exception of their own, where that is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What a launcher knows of the machines while an attempt is under way."""

    workers: int = 0
    """Size of the gang that was placed; 0: none yet."""
    room: int = 0
    """The largest admissible gang there would be room for, were this one not there; 0: not known."""
    leaving: str = ""
    """Nodes of the gang that are about to be taken away."""
    waits_for: MachineError | None = None
    """Why no gang can be placed at the moment."""
    waiting: Mapping[str, Any] | None = None
    """The same in detail, as plain data: what binds, what would help, and who holds what on which node."""
    placed: Mapping[int, str] = field(default_factory=dict)
    """The name of each rank's node, once the gang is placed."""


class Launcher(Protocol):
    """Starts gangs of workers and watches them: one for each attempt, one after the other."""

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Begin to start the workers, as many as there is room for of the plan's world sizes up to the launch's.

        Returns at once. The first start is refused where there is nowhere enough; a later one waits for machines to
        come back.
        """

    def poll(self) -> Ended | None:
        """None while workers live or are being started; does not block. Raises MachineError when they cannot start."""

    def outlook(self) -> Outlook:
        """What is known of the machines; does not block."""

    def kill(self) -> None:
        """End the workers at once, without saving. Idempotent; a start may follow."""

    def close(self) -> None:
        """Let go of everything this launcher started, also of a Ray of our own. Idempotent; called in any case."""


def write_launch(file: Path, launch: Launch, resources: WorkerResources) -> None:
    """In the driver: leave for a child what it is to start."""
    file.write_text(json.dumps({"launch": dataclasses.asdict(launch), "resources": dataclasses.asdict(resources)}))


def read_launch(file: str) -> tuple[Launch, WorkerResources]:
    """In the child: what the driver asked for."""
    data: dict[str, Any] = json.loads(Path(file).read_text())
    return Launch(**data["launch"]), WorkerResources(**data["resources"])


def start_child(
    command: Sequence[str],
    log: Path,
    resources: WorkerResources,
    *,
    stdin: int = subprocess.DEVNULL,
    more: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: Ctrl-C on the terminal reaches the driver alone. `more` environment."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=stdin,
            env={**os.environ, "OMP_NUM_THREADS": str(resources.threads), **(more or {})},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def kill_child(process: subprocess.Popen[bytes]) -> None:
    """End a process that `start_child` started, and all in its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin:
        process.stdin.close()


def die_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, by)
