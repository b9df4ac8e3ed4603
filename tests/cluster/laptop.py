"""A person at the laptop of a cluster of hosts, who hands in jobs and looks at them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.hosts import HOME
from tests.cluster.started import ORCHESTRATOR, Person

TWO_HOSTS = (
    "cluster.workers=2",
    "cluster.nodes=2",
    "cluster.placement=spread",
    f"cluster.cpus_per_worker={os.cpu_count()}",
)
"""Ray counts all CPUs of this machine on each host: one such worker takes a host as a whole."""


class Laptop:
    """A shell on the laptop, in a project that is nowhere else. Runs lie in a folder that all hosts share."""

    def __init__(self, person: Person, shared: Path) -> None:
        self.person = person
        self.shared = shared
        self.storage = (f"storage.path={shared}/runs", "storage.shared=true", "tracking.system_metrics=false")
        self.project = HOME / "project"
        self.folder = person.hosts.laptop.file(self.project)
        self.folder.mkdir()
        (self.folder / "notes.txt").write_text("only on the laptop\n")

    def says(self, verb: str, *words: str, timeout: float = 200, env: dict[str, str] | None = None) -> Any:
        """Run a verb on the head of the cluster."""
        return self.person.hosts.laptop.run(self.command(verb, *words), cwd=self.project, timeout=timeout, env=env)

    def begins(self, verb: str, *words: str) -> Any:
        """Start one, and do not wait for it."""
        return self.person.hosts.laptop.popen(
            self.command(verb, *words), cwd=self.project, stdout=-1, stderr=-1, text=True
        )

    def command(self, verb: str, *words: str) -> list[str]:
        """As it is typed."""
        return [str(ORCHESTRATOR), *verb.split(), "--cluster", str(self.person.file), *words]

    def gets(self, verb: str, *words: str, timeout: float = 200) -> str:
        """Run a verb that has to work."""
        done = self.says(verb, *words, timeout=timeout)
        assert done.returncode == 0, f"{verb} {words}: {done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def submits(self, run: str, *words: str) -> dict[str, Any]:
        """Hand a job in."""
        told: dict[str, Any] = json.loads(self.gets("submit", *words, *self.storage, "--id", run, "--json"))
        return told

    def root(self, run: str) -> Path:
        """The folder of a run."""
        return self.shared / "runs" / run

    def run(self, run: str) -> dict[str, Any]:
        """What the driver of a run keeps."""
        file = self.root(run) / "run.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def attempt(self, run: str, number: int) -> dict[str, Any]:
        """One attempt; empty before it trains."""
        attempts = self.run(run).get("attempts", [])
        found: dict[str, Any] = attempts[number - 1] if len(attempts) >= number else {}
        return found if found.get("first_step") is not None else {}

    def hosts_of(self, run: str, attempt: int) -> set[str]:
        """The hosts that its workers were placed on."""
        file = self.root(run) / "events/driver.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        placed = [each for each in lines if each["kind"] == "placed" and each["attempt"] == attempt]
        return set(placed[-1]["nodes"].values())

    def is_over(self, run: str) -> bool:
        """Whether a run has come to an end, whichever."""
        return self.run(run).get("status") in ("finished", "failed", "stopped")


def soon(look: Callable[[], Any], seconds: float = 150) -> Any:
    """What a look brings, as soon as it brings something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)
    return found
