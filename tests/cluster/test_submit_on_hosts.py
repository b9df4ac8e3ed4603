"""Jobs over several hosts, handed in, stopped and handed in again by a person at a laptop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime.catalog import Catalog
from orchestrator.storage import open_store
from tests.cluster.hosts import HOME, Hosts
from tests.cluster.started import ORCHESTRATOR, Person, spec, started

JOB = ("job=diabetes", "strategy=zero2", "job.epochs=null", "job.steps=1000000", "job.evaluate.epochs=null")
TWO_HOSTS = (
    "cluster.workers=2",
    "cluster.nodes=2",
    "cluster.placement=spread",
    f"cluster.cpus_per_worker={os.cpu_count()}",
)
"""Ray counts all CPUs of this machine on each host: one such worker takes a host as a whole."""


class Laptop:
    """A shell on the laptop, in a project that is nowhere else."""

    def __init__(self, person: Person, shared: Path) -> None:
        self.person = person
        self.shared = shared
        self.project = HOME / "project"
        folder = person.hosts.laptop.file(self.project)
        folder.mkdir()
        (folder / "notes.txt").write_text("only on the laptop\n")

    def says(self, verb: str, *words: str, timeout: float = 200) -> Any:
        """Run a verb on the head of the cluster."""
        command = [ORCHESTRATOR, verb, "--cluster", self.person.file, *words]
        return self.person.hosts.laptop.run(command, cwd=self.project, timeout=timeout)

    def gets(self, verb: str, *words: str, timeout: float = 200) -> str:
        """The same for what has to work."""
        done = self.says(verb, *words, timeout=timeout)
        assert done.returncode == 0, f"{verb} {words}: {done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def submits(self, run: str, *words: str) -> dict[str, Any]:
        """Hand a job in."""
        storage = (f"storage.path={self.shared}/runs", "storage.shared=true", "tracking.system_metrics=false")
        told: dict[str, Any] = json.loads(self.gets("submit", *JOB, *words, *storage, "--id", run, "--json"))
        return told

    def run(self, run: str) -> dict[str, Any]:
        """What the driver of a run keeps."""
        file = self.shared / "runs" / run / "run.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def attempt(self, run: str, number: int) -> dict[str, Any]:
        """One attempt; empty before it trains."""
        attempts = self.run(run).get("attempts", [])
        found: dict[str, Any] = attempts[number - 1] if len(attempts) >= number else {}
        return found if found.get("first_step") is not None else {}

    def hosts_of(self, run: str, attempt: int) -> set[str]:
        """The hosts that its workers were placed on."""
        file = self.shared / "runs" / run / "events/driver.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        placed = [each for each in lines if each["kind"] == "placed" and each["attempt"] == attempt]
        return set(placed[-1]["nodes"].values())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def laptop(allowed: None, shared: Path) -> Iterator[Laptop]:
    with Hosts(4, shared=[shared]) as hosts, started(hosts, spec(hosts, "jobs", hosts.all, listen="network")) as person:
        yield Laptop(person, shared)


def soon(look: Callable[[], Any], seconds: float = 150) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)
    return found


@pytest.mark.timeout(900)
def test_a_job_is_stopped_resumed_elsewhere_and_done_once_more(laptop: Laptop) -> None:
    told = laptop.submits("first", *TWO_HOSTS)
    assert (told["new"], [each["id"] for each in told["submissions"]]) == (True, ["first-a1"])
    assert not laptop.submits("first", *TWO_HOSTS)["new"], "the same command again hands in nothing"
    soon(lambda: laptop.attempt("first", 1))
    assert len(laptop.hosts_of("first", 1)) == 2

    assert "first stopped at step" in laptop.gets("stop", "first")
    stopped = laptop.run("first")
    with Catalog(open_store(stopped["root"]).child("checkpoints")).opened(stopped["last_checkpoint"]) as saved:
        assert saved.whole_damage() is None

    laptop.submits("holder", *TWO_HOSTS)
    soon(lambda: laptop.attempt("holder", 1))
    laptop.gets("resume", "first")
    second = soon(lambda: laptop.attempt("first", 2))
    assert second["first_step"] == stopped["step"]
    assert laptop.hosts_of("first", 2).isdisjoint(laptop.hosts_of("holder", 1))
    for run in ("first", "holder"):
        laptop.gets("stop", run, "--now")

    laptop.gets("rerun", "first", "--id", "more")
    soon(lambda: laptop.attempt("more", 1))
    assert laptop.run("more")["plan_digest"] == laptop.run("first")["plan_digest"]
    logs = laptop.gets("logs", "more", "--all")
    assert {line.split(" |")[0].split()[1] for line in logs.splitlines() if line.startswith("rank")} == {"0", "1"}
    laptop.gets("stop", "more", "--now")


@pytest.mark.timeout(300)
def test_errors_come_home(laptop: Laptop) -> None:
    done = laptop.says("stop", "nothing")
    assert (done.returncode, "There is no run 'nothing'" in done.stderr) == (2, True)
    done = laptop.says(
        "submit", *JOB, "cluster.workers=64", "batch=64", f"storage.path={laptop.shared}/runs", "storage.shared=true"
    )
    assert done.returncode == 3
    assert not list((laptop.shared / "runs").glob("diabetes-*"))
