"""Runs that lose workers and nodes and go on by themselves, with fewer workers and with more again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.node.ray_service import FAULTS
from orchestrator.config import load
from orchestrator.plans.make import make
from orchestrator.plans.placement.inventory import Inventory, Node
from orchestrator.plans.types import Plan
from orchestrator.records import events, runs
from orchestrator.records.events import Event, EventReader
from orchestrator.records.runs import RunRecord, Status
from orchestrator.runtime.driver import driver
from orchestrator.runtime.launchers.base import Launcher
from orchestrator.runtime.launchers.ray.launcher import RayLauncher
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from tests.integration.processes import children
from tests.integration.training import Recorder, carry_out, curve, plan_of, spec_of

pytestmark = pytest.mark.matrix(2)

TASK = '''
import time
import torch
from torch import nn
from orchestrator import Task


class Slow(Task):
    """Takes its time, so that there is some to take workers away in."""

    def loss(self, model, batch):
        time.sleep(PAUSE)
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs), targets, reduction="sum")


def net():
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


def data(split):
    if split == "test":
        return None
    inputs = torch.randn(480, 4, generator=torch.Generator().manual_seed(len(split)))
    return torch.utils.data.TensorDataset(inputs, inputs.argmax(1) % 3)
'''
STORE = 100 * 2**20


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's project, with a Task that does not hurry."""
    folder = tmp_path / "project"
    (folder / "slow").mkdir(parents=True)
    (folder / "slow" / "__init__.py").write_text(TASK.replace("PAUSE", "0.02"))
    (folder / "pyproject.toml").write_text('[tool.orchestrator]\nexports = ["slow:Slow", "slow:net", "slow:data"]\n')
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def overrides(*more: str, steps: int) -> list[str]:
    return [
        "job=digits",
        "job.task=slow:Slow",
        "~model",
        "+model={_target_: 'slow:net'}",
        "~data",
        "+data={_target_: 'slow:data'}",
        "job.epochs=null",
        f"job.steps={steps}",
        "job.evaluate.epochs=null",
        "job.monitor.metric=loss",
        "job.monitor.mode=min",
        "batch=16",
        "checkpoint.every={steps: 10, epochs: null}",
        *more,
    ]


def restarts(record: RunRecord) -> list[Event]:
    return [event for event in EventReader(record.store).poll() if event.kind == events.RESTART]


def seconds_lost(record: RunRecord, since: float, attempt: int) -> float:
    """From something that happened until an attempt trained."""
    return next(
        event.time - since
        for event in EventReader(record.store).poll()
        if event.kind == events.METRICS and event.attempt == attempt
    )


def kill_a_worker() -> float:
    """SIGKILL for one of our own workers, none of anybody else's; returns when."""
    marks = ("GangMember", "-m orchestrator.runtime.launchers.torchrun")
    os.kill(max(process.pid for process in children(os.getpid(), *marks)), signal.SIGKILL)
    return time.time()


class Once(Recorder):
    """Acts on the first event that it is told to wait for."""

    def __init__(self, kind: str, step: int, act: Callable[[], float]) -> None:
        super().__init__(act=self._look)
        self._wanted = (kind, step)
        self._do = act
        self.at = 0.0

    def _look(self, event: Event) -> None:
        kind, step = self._wanted
        if not self.at and event.kind == kind and (event.step or 0) >= step:
            self.at = self._do()


@pytest.mark.parametrize("kind", ["torchrun", "ray"])
def test_a_worker_that_is_killed_costs_a_restart_and_nothing_of_the_curve(kind: str) -> None:
    plan = plan_of(*overrides("cluster.workers=2", "strategy=zero2", steps=60))
    undisturbed = carry_out(plan)
    view = Once(events.CHECKPOINT, 20, kill_a_worker)
    launcher: Launcher = TorchrunLauncher() if kind == "torchrun" else RayLauncher(None)
    record = carry_out(plan, view, launcher)
    assert view.at
    assert record.status is Status.finished
    assert [attempt.status for attempt in record.attempts] == [Status.failed, Status.finished]
    assert curve(record) == curve(undisturbed)
    assert curve(record, "val/loss") == curve(undisturbed, "val/loss")
    (restart,) = restarts(record)
    assert restart.data["cause"] == "lost"
    assert record.attempts[1].first_step == restart.step
    assert 20 <= (restart.step or 0) < 60
    assert record.attempts[0].error in ("worker 0 was ended by SIGKILL", "worker 1 was ended by SIGKILL") or (
        "died without a word" in record.attempts[0].error
    )
    print(f"{kind}: training again after {seconds_lost(record, view.at, 2):.1f} s")


@pytest.mark.parametrize("service", ["gcs_server", "raylet"])
def test_a_run_whose_own_ray_goes_down_starts_another(service: str) -> None:
    plan = plan_of(*overrides("cluster.workers=1", steps=300))

    old: list[psutil.Process] = []

    def kill() -> float:
        (child,) = children(os.getpid(), "orchestrator.runtime.launchers.ray.child")
        old.extend([child, *child.children(recursive=True)])
        (process,) = [each for each in old if each.name() == service]
        process.kill()
        return time.time()

    view = Once(events.CHECKPOINT, 10, kill)
    record = carry_out(plan, view, RayLauncher(None))
    assert record.status is Status.finished
    assert [attempt.status for attempt in record.attempts] == [Status.failed, Status.finished]
    assert "does not answer any more" in record.attempts[0].error
    assert not [each for each in old if each.is_running()], "nothing of the first Ray goes on beside the second"
    assert record.attempts[1].first_step == restarts(record)[0].step
    assert seconds_lost(record, view.at, 2) < 60, "nobody waited for a Ray that does not come back"


# --- nodes -----------------------------------------------------------------------------------------------------------


class Nodes:
    """A Ray cluster of several raylets on this machine: a head, and others that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False, "node_name": "head", "object_store_memory": STORE}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._others: dict[str, Any] = {}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, name: str) -> float:
        self._others[name] = self._cluster.add_node(num_cpus=1, node_name=name, object_store_memory=STORE)
        return time.time()

    def take_away(self, name: str) -> float:
        """As when its power is cut: nobody is told."""
        self._cluster.remove_node(self._others.pop(name), allow_graceful=False)
        return time.time()

    def announce_departure(self, name: str, within_s: float) -> float:
        """As cloud providers do before they take a machine back."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int(1000 * (time.time() + within_s))
        accepted, why = GcsClient(address=self.address).drain_node(
            self._others[name].node_id, reason, "needed elsewhere", deadline
        )
        assert accepted, why
        return time.time()

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    before = {name: os.environ.get(name) for name in FAULTS}
    os.environ.update(FAULTS)
    cluster = Nodes()
    yield cluster
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def elastic_plan(address: str, steps: int, strategy: str = "zero1") -> Plan:
    """One or two workers, on two nodes with a CPU each."""
    given = overrides(
        *("cluster.workers=1..2", "cluster.nodes=2", "storage.shared=true", f"strategy={strategy}"),
        "resilience.grow_interval_s=1",
        steps=steps,
    )
    settings = ["tracking=off", "tracking.system_metrics=false", "cluster=existing", f"cluster.address={address}"]
    loaded = load.load([*settings, *given])
    two = Inventory(nodes=tuple(Node(name=name, cpus=1, memory=2**30) for name in ("head", "other")))
    return make(loaded.resolved, loaded.spec, two, environment={}, shared_storage=True)


def sizes(record: RunRecord) -> list[int]:
    """World sizes as the run's events tell them."""
    started = [event for event in EventReader(record.store).poll() if event.kind == events.STARTED]
    return [event.data["world_size"] for event in started]


def test_a_node_is_taken_away_and_given_back(nodes: Nodes) -> None:
    nodes.add("first")
    plan = elastic_plan(nodes.address, steps=800)
    at: dict[str, float] = {}

    def act(event: Event) -> None:
        if event.kind == events.CHECKPOINT and event.attempt == 1 and "gone" not in at:
            at["gone"] = nodes.take_away("first")
        if event.kind == events.CHECKPOINT and event.attempt == 2 and "back" not in at:
            at["back"] = nodes.add("second")

    view = Recorder(act=act)
    record = runs.create(plan)
    driver.carry_out(record, plan, spec_of(plan), view)
    assert (record.status, record.step) == (Status.finished, 800)
    assert sizes(record) == [attempt.world_size for attempt in record.attempts] == [2, 1, 2]
    assert [event.data["cause"] for event in restarts(record)] == ["lost", "room"]
    assert record.attempts[1].reason == "node first went away"
    assert record.attempts[2].reason == "there is room for 2 workers"
    assert record.attempts[2].first_step == record.attempts[1].last_step, "growing costs no step"
    print(f"1 worker trains {seconds_lost(record, at['gone'], 2):.1f} s after the node went")
    print(f"2 workers train {seconds_lost(record, at['back'], 3):.1f} s after a node came")
    undisturbed = carry_out(plan_of(*overrides("cluster.workers=2", "strategy=zero1", steps=800)))
    losses, expected = curve(record), curve(undisturbed)
    assert losses.keys() == expected.keys()
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    assert record.final_metrics["val/loss"] == pytest.approx(undisturbed.final_metrics["val/loss"], rel=1e-4)


def test_a_node_whose_departure_is_announced_is_left_with_all_work_saved(nodes: Nodes) -> None:
    nodes.add("leaving")
    plan = elastic_plan(nodes.address, steps=500)
    at: list[float] = []

    def act(event: Event) -> None:
        if event.kind == events.CHECKPOINT and not at:
            at.append(nodes.announce_departure("leaving", within_s=60))

    view = Recorder(act=act)
    record = runs.create(plan)
    driver.carry_out(record, plan, spec_of(plan), view)
    assert record.status is Status.finished
    first, second = record.attempts[:2]
    assert restarts(record)[0].data["cause"] == "leaving"
    assert second.reason == "leaving is about to be taken away"
    assert (first.status, second.first_step) == (Status.stopped, first.last_step), "no step is lost"
