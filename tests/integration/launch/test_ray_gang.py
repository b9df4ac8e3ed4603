"""Gangs of Ray actors on a cluster of two nodes: how they start, meet, fail and end."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator import paths
from orchestrator.cluster.nodes.ray_nodes import NODE_ID
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.ray import gang as ray_gang
from orchestrator.runtime.launchers.ray.gang import Gang, GangEnd, Lost
from orchestrator.runtime.worker.context import Launch
from tests.integration.launch.test_launchers import launch, read, wait_until

pytestmark = pytest.mark.matrix(2)

RESOURCES = WorkerResources(cpus=1, gpus=0, threads=2)
ANYWHERE = {"placement_strategy": "PACK"}
STORE = 100 * 2**20


@dataclasses.dataclass
class World:
    """The cluster of these tests."""

    cluster: Any
    nodes: list[str]
    """Ids of its nodes, the head first."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, object_store_memory=STORE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    first = cluster.head_node.node_id
    yield World(cluster, [first, *(node.node_id for node in cluster.worker_nodes)])
    ray.shutdown()
    cluster.shutdown()


def probe(root: Path, entry: str, **plan: Any) -> Launch:
    wanted = launch(root, entry)
    return dataclasses.replace(wanted, plan=plan, entry=f"tests.integration.launch.gang_probes:{entry}")


def on(*nodes: str) -> dict[str, Any]:
    """A worker on each of these nodes."""
    return {"placement_strategy": "PACK", "label_selector": [{NODE_ID: node} for node in nodes]}


def met(root: Path, attempt: int, workers: int) -> list[dict[str, Any]]:
    return [read(root, f"met-{attempt}-{rank}.json") for rank in range(workers)]


def pids(root: Path, kind: str = "here", workers: int = 2) -> list[int]:
    return [int(str(read(root, f"{kind}-{rank}.json")["pid"])) for rank in range(workers)]


def none_runs(pids: list[int]) -> bool:
    """Whether all are gone; a process that has ended may still wait for its parent to take note."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def run(where: dict[str, Any], wanted: Launch, workers: int = 2) -> GangEnd:
    return ray_gang.run(wanted, RESOURCES, workers, where)


def test_workers_meet_with_the_neighbours_on_a_node_side_by_side(world: World, tmp_path: Path) -> None:
    first, second = world.nodes
    assert run(on(second, first, second, first), probe(tmp_path, "meet"), workers=4) == GangEnd()
    facts = met(tmp_path, 3, 4)
    assert [fact["node"] for fact in facts] == [second, second, first, first]
    assert [fact["local_rank"] for fact in facts] == [0, 1, 0, 1]
    assert [fact["node_rank"] for fact in facts] == [0, 0, 1, 1]
    for rank, fact in enumerate(facts):
        assert (fact["rank"], fact["world_size"], fact["plan_size"], fact["sum"]) == (rank, 4, 4, 10)
        told = fact["environment"]
        assert (told["RANK"], told["WORLD_SIZE"], told["LOCAL_WORLD_SIZE"]) == (str(rank), "4", "2")
        assert (told["LOCAL_RANK"], told["NODE_RANK"], told["GROUP_RANK"]) == (str(rank % 2), *[str(rank // 2)] * 2)
        assert (told["OMP_NUM_THREADS"], told["DO_NOT_TRACK"]) == ("2", "true")
        assert told["MASTER_PORT"] == facts[0]["environment"]["MASTER_PORT"]
        assert fact["interface"] in psutil.net_if_addrs()
    assert none_runs([fact["pid"] for fact in facts])


def test_a_gang_takes_one_launch_after_the_other(world: World, tmp_path: Path) -> None:
    gang = Gang(2, RESOURCES, ANYWHERE)
    try:
        gang.assemble()
        first, second = (dataclasses.replace(probe(tmp_path, "meet"), attempt=number) for number in (1, 2))
        assert gang.run(first) == GangEnd()
        began = time.monotonic()
        assert gang.run(second) == GangEnd()
        assert time.monotonic() - began < 5
        assert [fact["pid"] for fact in met(tmp_path, 1, 2)] == [fact["pid"] for fact in met(tmp_path, 2, 2)]
    finally:
        assert gang.stop() == []
    assert none_runs([fact["pid"] for fact in met(tmp_path, 2, 2)])


def test_looking_at_a_gang_takes_no_time(world: World, tmp_path: Path) -> None:
    gang = Gang(2, RESOURCES, ANYWHERE)
    gang.start(probe(tmp_path, "part", rank=0, how="wait"))
    while not (tmp_path / "here-1.json").exists():
        began = time.monotonic()
        assert gang.poll() is None
        assert time.monotonic() - began < 1
    assert gang.stop() == []
    assert gang.stop() == []
    assert none_runs(pids(tmp_path))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("SIGKILL", r"worker 1 on node \w+ died without a word, as when the system kills it for want of memory"),
        ("SIGSEGV", r"worker 1 on node \w+ crashed: Segmentation fault"),
        ("SIGABRT", r"worker 1 on node \w+ crashed: Aborted"),
        ("SIGTERM", r"worker 1 on node \w+ got SIGTERM"),
        ("os._exit", r"worker 1 on node \w+ died without a word, .*"),
    ],
)
def test_a_worker_that_dies_ends_the_gang(world: World, tmp_path: Path, how: str, error: str, apart: bool) -> None:
    end = run(on(*world.nodes), probe(tmp_path, "part", rank=1, how=how, apart=apart))
    assert re.fullmatch(error, end.error)
    assert end.lost == (Lost(rank=1, node=world.nodes[1]),)
    assert end.started
    assert none_runs(pids(tmp_path))


@pytest.mark.parametrize(
    ("how", "error"),
    [("raise", "worker 1: ValueError: the seventh batch is empty"), ("sys.exit", "worker 1: SystemExit: 5")],
)
def test_a_worker_that_fails_ends_the_gang(world: World, tmp_path: Path, how: str, error: str) -> None:
    began = time.monotonic()
    assert run(ANYWHERE, probe(tmp_path, "part", rank=1, how=how, apart=True)) == GangEnd(error=error)
    assert time.monotonic() - began < 50
    assert none_runs(pids(tmp_path))
    assert (tmp_path / paths.failure(3, 1)).exists() is (how == "raise")


def test_workers_that_go_with_their_node(world: World, tmp_path: Path) -> None:
    doomed = world.cluster.add_node(num_cpus=2, object_store_memory=STORE)
    gang = Gang(3, RESOURCES, on(world.nodes[0], doomed.node_id, doomed.node_id), {doomed.node_id: "gamma"})
    try:
        gang.start(probe(tmp_path, "part", rank=0, how="wait", apart=True))
        wait_until(lambda: gang.poll(0.1) or (tmp_path / "here-2.json").exists())
        world.cluster.remove_node(doomed, allow_graceful=True)
        wait_until(lambda: gang.poll(0.1), 60)
        end = gang.poll()
        assert end
        assert end.error == "workers 1, 2 on gamma went away with the node"
        assert end.lost == tuple(Lost(rank=rank, node=doomed.node_id) for rank in (1, 2))
    finally:
        gang.stop()


def test_no_room(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_gang, "PLACE_S", 1.0)
    end = run(ANYWHERE, probe(tmp_path, "meet"), workers=5)
    assert end == GangEnd(error="there was no room for them within 1 s", started=False)
    assert run(ANYWHERE, probe(tmp_path, "meet"), workers=4) == GangEnd()


@pytest.fixture
def script(world: World, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a gang that waits until it is killed."""
    wanted = probe(tmp_path, "part", rank=0, how="wait", apart=True)
    with start_script(world, wanted) as process:
        wait_until(lambda: all((tmp_path / f"here-{rank}.json").exists() for rank in (0, 1)))
        yield process
        process.kill()


def start_script(world: World, wanted: Launch) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.launch.gang_script", world.cluster.address]
    return subprocess.Popen([*command, json.dumps(dataclasses.asdict(wanted))], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(
    script: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    os.kill(script.pid, number)
    wait_until(lambda: none_runs(pids(tmp_path)), 30)


def test_the_process_that_starts_them_imports_little(world: World, tmp_path: Path) -> None:
    with start_script(world, probe(tmp_path, "meet")) as process:
        answer, _ = process.communicate(timeout=120)
    assert json.loads(answer) == {"error": "", "lost": [], "heavy": []}
