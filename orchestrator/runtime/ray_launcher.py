"""Workers under Ray Train: a child process speaks to Ray, so that Ray's signals, threads and exits stay in there."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.runtime.context import Launch
from orchestrator.runtime.launcher import ProcessLauncher
from orchestrator.storage import write_atomically

CAUSE = "cause.txt"
"""Where the child leaves the most telling line of what went wrong."""


class RayLauncher(ProcessLauncher):
    """A gang of Ray actors, on the cluster at `address` or on a Ray of our own that lives as long as the run."""

    def __init__(self, address: str | None) -> None:
        super().__init__()
        self._address = address

    def command(self, launch: Launch, launch_file: Path) -> list[str]:
        """Run the module that trains through Ray, in this very environment."""
        return [sys.executable, "-m", "orchestrator.runtime.ray_train", str(launch_file), self._address or ""]

    def last_words(self, code: int, folder: Path) -> str:
        """What the child understood of Ray's nested exceptions, or else the end of its output."""
        if (folder / CAUSE).exists():
            return (folder / CAUSE).read_text()
        lines = (folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"Ray Train ended with exit code {code}"


def write_cause(launch_file: str, cause: str) -> None:
    """In the child: leave the cause for `last_words`."""
    write_atomically(Path(launch_file).parent / CAUSE, cause.encode())
