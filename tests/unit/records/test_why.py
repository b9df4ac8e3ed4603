"""What is told of a job that waits: the whole of it, and one line of a job that does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plans.placement.inventory import Free, Inventory, Node
from orchestrator.plans.types import WorkerResources
from orchestrator.records import events
from orchestrator.records.runs import RunRecord, Status
from orchestrator.records.status import stand
from orchestrator.records.why import Why, explain
from orchestrator.runtime.launchers.ray import holders
from orchestrator.runtime.launchers.ray.holders import Holding
from orchestrator.runtime.launchers.ray.scaling import Scaling
from orchestrator.runtime.worker.context import Launch
from tests.unit.records.stories import begin, end, fail, make_run, seen, tell

GIB = 2**30


def node(name: str, cpus: float, free: float, memory: int = 0) -> Node:
    return Node(name=name, id=f"id-{name}", cpus=cpus, memory=memory, free=Free(cpus=free, gpus=0, memory=memory))


def holds(run: str, place: str, cpus: float, workers: int = 1) -> Holding:
    return Holding(run=run, attempt=1, node=place, workers=workers, cpus=cpus, gpus=0, memory=0)


def scaling(workers: int, cpus: float, nodes: int = 2) -> Scaling:
    plan = {"spec": {"cluster": {"nodes": nodes}}, "rows": [{"world_size": workers}]}
    launch = Launch(run_id="b", attempt=1, root="", project="", world_size=workers, plan=plan)
    return Scaling(launch, WorkerResources(cpus=cpus, gpus=0, threads=1), own=False)


def waiting(wanted: Scaling, inventory: Inventory, *holdings: Holding) -> dict[str, Any]:
    """What a driver would write down."""
    misfit = wanted.choose(inventory)
    assert isinstance(misfit, holders.Misfit)
    details = holders.explain(misfit, inventory, list(holdings), wanted.fits_now)
    return {"message": f"{misfit.reason}.", "hint": "", **details}


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    record = make_run(tmp_path, "b")
    begin(record)
    return record


def why(record: RunRecord) -> Why:
    return explain(seen(record), stand(seen(record)))


BUSY = Inventory(nodes=(node("node-a", 2, 0), node("node-b", 2, 1)))


def test_a_job_that_waits_is_told_what_binds_where_who_holds_it_and_what_would_start_it(record: RunRecord) -> None:
    told = waiting(scaling(2, 1), BUSY, holds("a-1", "node-a", 2, workers=2), holds("c-3", "node-b", 1))
    tell(record, events.WAITING, 1, **told)
    assert why(record).lines() == [
        "b waits for room: 2 workers with 1 CPU each need 2 CPUs, and there is 1 free.",
        "binds: CPU",
        "  node-a: 0 of 2 CPUs free, no room; a-1 holds 2 CPUs for 2 workers",
        "  node-b: 1 of 2 CPUs free, room for 1 worker; c-3 holds 1 CPU for 1 worker",
        "what would start it:",
        "  it starts by itself when a-1 or c-3 ends",
        "  submit it with cluster.workers=1",
    ]


def test_what_others_hold_is_named_too(record: RunRecord) -> None:
    told = waiting(scaling(2, 1), BUSY, holds("a-1", "node-a", 1))
    tell(record, events.WAITING, 1, **told)
    assert (
        "  node-a: 0 of 2 CPUs free, no room; a-1 holds 1 CPU for 1 worker; other work on Ray holds 1 CPU"
        in why(record).lines()
    )


def test_runs_that_must_end_together(record: RunRecord) -> None:
    told = waiting(
        scaling(4, 1),
        Inventory(nodes=(node("node-a", 2, 0), node("node-b", 2, 0))),
        holds("a-1", "node-a", 2),
        holds("c-3", "node-b", 2),
    )
    tell(record, events.WAITING, 1, **told)
    assert "  it starts by itself when a-1 and c-3 have ended" in why(record).lines()


def test_a_run_whose_end_would_not_help_is_not_named(record: RunRecord) -> None:
    inventory = Inventory(nodes=(node("node-a", 2, 0), node("node-b", 4, 0)))
    told = waiting(scaling(1, 3), inventory, holds("a-1", "node-a", 2), holds("c-3", "node-b", 4))
    tell(record, events.WAITING, 1, **told)
    assert "  it starts by itself when c-3 ends" in why(record).lines()


def test_memory_binds_too(record: RunRecord) -> None:
    wanted = scaling(1, 1)
    wanted._resources = dataclasses.replace(wanted._resources, memory=3 * GIB)
    free = Free(cpus=2, gpus=0, memory=1 * GIB)
    inventory = Inventory(nodes=(Node(name="node-a", id="a", cpus=2, memory=4 * GIB, free=free),))
    holding = dataclasses.replace(holds("a-1", "node-a", 0), memory=3 * GIB)
    tell(record, events.WAITING, 1, **waiting(wanted, inventory, holding))
    lines = why(record).lines()
    assert lines[1:4] == [
        "binds: memory",
        "  node-a: 2 of 2 CPUs, 1 GiB of 4 GiB free, no room; a-1 holds 3 GiB for 1 worker",
        "what would start it:",
    ]
    assert "  submit it with cluster.memory_per_worker=1GiB" in lines


def test_where_nobody_knows_more_the_hint_is_told(record: RunRecord) -> None:
    tell(record, events.WAITING, 1, message="Ray at x cannot be reached.", hint="Look at it with: ray status.\nmore")
    assert why(record).lines() == [
        "b waits for room: Ray at x cannot be reached.",
        "what would start it:",
        "  Look at it with: ray status.",
    ]


def test_one_that_runs(record: RunRecord) -> None:
    tell(record, events.PLACED, 1, nodes={"0": "node-a", "1": "node-b"})
    assert why(record).lines() == ["b has its places on node-a, node-b and is starting its workers."]
    tell(record, events.METRICS, 9, writer="rank-0", step=7, metrics={"train/loss": 1.0})
    assert why(record).lines() == ["b is running at step 7 on node-a, node-b: it waits for nothing."]


def test_those_that_are_over(record: RunRecord) -> None:
    end(record, Status.finished)
    assert why(record).lines() == ["b has finished at step 0."]
    end(record, Status.stopped)
    assert why(record).says.endswith(f"Go on with: orchestrator resume b --storage {Path(record.root).parent}")
    fail(record, 1, "ValueError", "bad token")
    end(record, Status.failed, "ValueError: bad token (worker 1, task.py:3)")
    assert why(record).lines() == ["b failed at step 0: ValueError: bad token"]


def test_data_for_programs(record: RunRecord) -> None:
    tell(record, events.WAITING, 1, **waiting(scaling(2, 1), BUSY, holds("a-1", "node-a", 2)))
    told = why(record).to_dict()
    assert told["state"] == "waiting"
    assert told["waiting"]["binding"] == "CPU"
    assert told["waiting"]["holders"][0] == {
        "run": "a-1",
        "attempt": 1,
        "node": "node-a",
        "workers": 1,
        "cpus": 2,
        "gpus": 0,
        "memory": 0,
    }
    assert told["waiting"]["until"] == ["a-1"]
    assert told["waiting"]["changes"][0] == {"settings": ["cluster.workers=1"], "leave_out": False}


def test_rays_table_of_placement_groups() -> None:
    table = [
        {
            "name": "orchestrator:digits-1:3",
            "state": "CREATED",
            "bundles": {0: {"CPU": 1.0}, 1: {"CPU": 1.0, "memory": 5.0}, 2: {"CPU": 1.0, "GPU": 1.0}},
            "bundles_to_node_id": {0: "x", 1: "x", 2: "y"},
        },
        {
            "name": "orchestrator:digits-2:1",
            "state": "PENDING",
            "bundles": {0: {"CPU": 1.0}},
            "bundles_to_node_id": {0: ""},
        },
        {
            "name": "orchestrator:digits-0:1",
            "state": "REMOVED",
            "bundles": {0: {"CPU": 1.0}},
            "bundles_to_node_id": {0: "x"},
        },
        {"name": "somebody:else:1", "state": "CREATED", "bundles": {0: {"CPU": 1.0}}, "bundles_to_node_id": {0: "x"}},
        {"name": "", "state": "CREATED", "bundles": {0: {"CPU": 1.0}}, "bundles_to_node_id": {0: "x"}},
    ]
    assert holders.read(table, {"x": "node-a", "y": "node-b"}) == [
        Holding(run="digits-1", attempt=3, node="node-a", workers=2, cpus=2, gpus=0, memory=5),
        Holding(run="digits-1", attempt=3, node="node-b", workers=1, cpus=1, gpus=1, memory=0),
    ]
    assert holders.group_name("digits-1", 3) == table[0]["name"]
