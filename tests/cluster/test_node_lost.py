"""A node of a cluster that we started is lost while it trains: how long until training goes on."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host, Hosts
from tests.cluster.started import ORCHESTRATOR, spec, started

pytestmark = pytest.mark.timeout(400)
LIMIT_S = 20.0
"""From the loss to the first step of the next attempt."""
OVERRIDES = ["job=diabetes", "job.epochs=null", "job.steps=1000000", "tracking=off"]
SAVES = ["checkpoint.every.epochs=null", "checkpoint.every.steps=20"]
TWO_HOSTS = ["cluster=existing", "cluster.workers=2", "cluster.nodes=2", "cluster.placement=spread", "strategy=zero3"]


def crash(hosts: Hosts, host: Host) -> None:
    hosts.crash(host)


def cut(hosts: Hosts, host: Host) -> None:
    hosts.cut(host)


def kill_raylet(hosts: Hosts, host: Host) -> None:
    (raylet,) = (pid for pid, line in host.processes().items() if "raylet/raylet" in line)
    host.run(["kill", "-9", str(raylet)], check=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.mark.parametrize("lose", [crash, cut, kill_raylet])
def test_training_goes_on_soon(allowed: None, shared: Path, lose: Callable[[Hosts, Host], None]) -> None:
    run = shared / lose.__name__
    with Hosts(3, shared=[shared]) as hosts, started(hosts, spec(hosts, "lossy", hosts.all, listen="network")):
        command = [
            ORCHESTRATOR,
            "train",
            *OVERRIDES,
            *SAVES,
            *TWO_HOSTS,
            f"storage.path={shared}",
            "storage.shared=true",
        ]
        with training(hosts.all[0], [*command, "--id", run.name]):
            wait_until(lambda: last(run, "metrics").get("step", 0) > 40, 120)
            victim = next(host for host in hosts.all[1:] if works(host))
            lost = time.time()
            lose(hosts, victim)
            wait_until(lambda: last(run, "metrics").get("attempt", 1) > 1, 120)
    first = next(event for event in events(run) if event["kind"] == "metrics" and event["attempt"] == 2)
    print(f"{lose.__name__}: training again after {first['time'] - lost:.1f} s")
    assert first["step"] > 20
    assert first["time"] - lost <= LIMIT_S


@contextmanager
def training(host: Host, command: list[Any]) -> Iterator[None]:
    with host.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def works(host: Host) -> bool:
    return any("GangMember" in line for line in host.processes().values())


def events(run: Path) -> list[dict[str, Any]]:
    found = []
    for file in (run / "events").glob("rank-0*.jsonl"):
        # The last line may not be whole yet.
        found += [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    return found


def last(run: Path, kind: str) -> dict[str, Any]:
    return next((event for event in reversed(events(run)) if event["kind"] == kind), {})


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
