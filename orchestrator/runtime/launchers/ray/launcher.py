"""Workers as Ray actors: a child process speaks to Ray, so that Ray's signals, threads and exits stay in there.

The child stays for all attempts of the run, with its connection to Ray. It reads what to start from its input, line by
line, and tells in one small file how things stand.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.base import Ended, Outlook, kill_child, start_child, write_launch
from orchestrator.runtime.worker.context import Launch

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the child knows of an attempt: an Outlook as plain data, and how the attempt ended."""

    attempt: int = 0
    workers: int = 0
    room: int = 0
    leaving: str = ""
    waits_for: dict[str, str] | None = None
    """A MachineError's message and hint; it may pass."""
    waiting: dict[str, Any] | None = None
    """What is known in detail of what it waits for."""
    placed: dict[str, str] = dataclasses.field(default_factory=dict)
    """The name of each rank's node."""
    refused: dict[str, str] | None = None
    """The same, for good."""
    ended: str | None = None
    """None while the attempt goes on; empty when all workers returned in order, or else what went wrong."""
    lost: list[int] = dataclasses.field(default_factory=list)
    """Ranks that died without an exception."""


class Reporter:
    """In the child: keeps the report, and writes it when something in it changes."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / REPORT
        self._lock = threading.Lock()
        self._report = Report()

    def begin(self, attempt: int) -> None:
        """A new attempt."""
        with self._lock:
            self._report = Report(attempt=attempt)
            self._write()

    def tell(self, **changes: Any) -> None:
        """Something is known anew."""
        with self._lock:
            report = dataclasses.replace(self._report, **changes)
            if report != self._report:
                self._report = report
                self._write()

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(dataclasses.asdict(self._report)))
        new.replace(self._file)


class RayLauncher:
    """A gang of Ray actors, on the cluster at `address` or on a Ray of our own that lives as long as the run."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._attempt = 0
        self._starts = 0

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Hand the launch to the child; start one first, where none is left from an earlier attempt."""
        if self._process is None or self._process.poll() is not None:
            self._start_child(resources)
        self._attempt = launch.attempt
        launch_file = self._folder / f"launch-{launch.attempt}.json"
        write_launch(launch_file, launch, resources)
        order = {"launch": str(launch_file), "patient": self._starts > 0}
        self._starts += 1
        self._send(json.dumps(order))

    def poll(self) -> Ended | None:
        """What the child reports, or its own end, which is that of all workers."""
        gone = self._process is not None and self._process.poll() is not None
        report = self._report()
        if report.refused:
            raise MachineError(**report.refused)
        if report.ended is not None:
            return Ended(error=report.ended, lost=tuple(report.lost))
        return Ended(error=self._last_words()) if gone else None

    def outlook(self) -> Outlook:
        """As the child saw it last."""
        report = self._report()
        waits_for = MachineError(**report.waits_for) if report.waits_for else None
        return Outlook(
            workers=report.workers,
            room=report.room,
            leaving=report.leaving,
            waits_for=waits_for,
            waiting=report.waiting,
            placed={int(rank): node for rank, node in report.placed.items()},
        )

    def kill(self) -> None:
        """End the child and all in its session; Ray ends the workers of a driver that is gone."""
        if self._process:
            kill_child(self._process)

    def close(self) -> None:
        """End the child and remove the scratch folder."""
        self.kill()
        if self._scratch:
            self._scratch.cleanup()
            self._scratch = None

    def _start_child(self, resources: WorkerResources) -> None:
        self.close()
        self._scratch = tempfile.TemporaryDirectory(prefix="orchestrator-launch-")
        command = [
            sys.executable,
            "-m",
            "orchestrator.runtime.launchers.ray.child",
            str(self._folder),
            self._address or "",
        ]
        self._process = start_child(command, self._folder / "log", resources, stdin=subprocess.PIPE)

    def _send(self, line: str) -> None:
        """A child that has just ended is found out by `poll`."""
        if self._process and self._process.stdin:
            try:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                return

    def _report(self) -> Report:
        """The report of this attempt; an empty one before there is any."""
        try:
            report = Report(**json.loads((self._folder / REPORT).read_text()))
        except FileNotFoundError:
            return Report()
        return report if report.attempt == self._attempt else Report()

    def _last_words(self) -> str:
        """The end of the output of a child that ended by itself."""
        lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        code = self._process.returncode if self._process else 0
        return lines[-1] if lines else f"the process that speaks to Ray ended with exit code {code}"

    @property
    def _folder(self) -> Path:
        return Path(self._scratch.name) if self._scratch else Path()
