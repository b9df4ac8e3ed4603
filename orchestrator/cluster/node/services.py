"""Services that stay on a machine after the command that started them: Ray, and MLflow's server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.cluster.node import processes
from orchestrator.cluster.node.home import Home
from orchestrator.cluster.node.processes import Identity
from orchestrator.cluster.node.supervisor import GRACE_S, MARKER
from orchestrator.errors import MachineError

STOP_TIMEOUT_S = 3 * GRACE_S
POLL_S = 0.1


def start(home: Home, name: str, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program under a keeper of its own. Only this process needs the result, to see an early end."""
    home.service(name).unlink(missing_ok=True)
    with home.log(name).open("wb") as log:
        home.log(name).chmod(0o600)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cluster.node.supervisor", str(home.service(name)), *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=Path.home() if Path.home().is_dir() else "/",
            start_new_session=True,
        )


def keeper(home: Home, name: str) -> Identity | None:
    """The process that keeps a service, as it was noted; it may be long gone."""
    try:
        return Identity(**json.loads(home.service(name).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def lives(home: Home, name: str) -> bool:
    """Whether a service runs."""
    noted = keeper(home, name)
    return noted is not None and noted.lives()


def stop(home: Home, name: str) -> None:
    """End a service with all that it started, also when its keeper was killed."""
    noted = keeper(home, name)
    if noted and noted.lives():
        os.kill(noted.pid, signal.SIGTERM)
        if not processes.wait_gone(noted, STOP_TIMEOUT_S):
            os.kill(noted.pid, signal.SIGKILL)
    processes.kill(processes.marked(MARKER, str(home.service(name))))
    home.service(name).unlink(missing_ok=True)


def wait(home: Home, name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], timeout_s: float) -> None:
    """Wait until a service that was just started is ready; otherwise end it, and say what it said last."""
    end = time.monotonic() + timeout_s
    while not ready():
        ended = process.poll() is not None
        if ended or time.monotonic() > end:
            words = last_words(home.log(name))
            stop(home, name)
            what = "ended at once" if ended else f"was not ready within {timeout_s:g} s"
            raise MachineError(f"{name} {what}: {words}.", f"All that it said: {home.log(name)}")
        time.sleep(POLL_S)


def last_words(log: Path) -> str:
    """The line of a log that is most likely the reason: the last that speaks of an error, or else the last."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "it said nothing"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return (errors or lines or ["it said nothing"])[-1].rstrip(".")
