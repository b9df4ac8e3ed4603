"""Where workers go, and what is said when they do not fit."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.config.schema import PlacementName
from orchestrator.plans.placement.gang import UNLIMITED, Gang, has_gpu_type, has_labels, holds, lay_out
from orchestrator.plans.placement.inventory import Free, Gpu, Inventory, Node
from orchestrator.plans.placement.misfit import Misfit, hint
from orchestrator.plans.placement.place import Placement, place
from orchestrator.plans.types import Spot, WorkerResources

PACK, SPREAD = PlacementName.pack, PlacementName.spread
GIB = 2**30


def node(name: str, cpus: float = 8, gpus: int = 0, kind: str = "H100", **more: Any) -> Node:
    memory = more.pop("memory", 64 * GIB)
    return Node(name=name, cpus=cpus, memory=memory, gpus=(Gpu(name=kind, memory=0),) * gpus, **more)


def there(*nodes: Node) -> Inventory:
    return Inventory(nodes=nodes)


def need(cpus: float = 1, gpus: float = 0, memory: int = 0) -> WorkerResources:
    return WorkerResources(cpus=cpus, gpus=gpus, threads=1, memory=memory)


def spots(found: Placement | Misfit) -> dict[str, int]:
    assert isinstance(found, Placement), found
    return {spot.node: spot.workers for spot in found.spots}


def misfit(found: Placement | Misfit) -> Misfit:
    assert isinstance(found, Misfit), found
    return found


def texts(found: Misfit) -> list[str]:
    return [" with ".join(change.settings) for change in found.changes()]


TWO_FOURS = there(node("b", gpus=4), node("a", gpus=4))


# --- where -----------------------------------------------------------------------------------------------------------


def test_pack_fills_one_node_before_the_next() -> None:
    assert spots(place(4, need(gpus=1), TWO_FOURS, nodes=2)) == {"a": 4}
    assert spots(place(6, need(gpus=1), TWO_FOURS, nodes=2)) == {"a": 4, "b": 2}


def test_pack_takes_the_tightest_gap_for_what_remains() -> None:
    inventory = there(node("a", gpus=8), node("b", gpus=4), node("c", gpus=2))
    assert spots(place(2, need(gpus=1), inventory)) == {"c": 2}
    assert spots(place(10, need(gpus=1), inventory, nodes=2)) == {"a": 8, "c": 2}


def test_spread_is_even_over_as_many_nodes_as_asked() -> None:
    inventory = there(node("a", gpus=2), node("b", gpus=4), node("c", gpus=4))
    assert spots(place(4, need(gpus=1), inventory, nodes=2, style=SPREAD)) == {"b": 2, "c": 2}
    assert spots(place(5, need(gpus=1), inventory, nodes=3, style=SPREAD)) == {"a": 1, "b": 2, "c": 2}
    assert spots(place(1, need(gpus=1), inventory, nodes=3, style=SPREAD)) == {"b": 1}


def test_gpu_kind_is_told() -> None:
    found = place(1, need(gpus=1), TWO_FOURS)
    assert isinstance(found, Placement)
    assert found.spots == (Spot(node="a", workers=1, gpu="H100"),)


def test_labels_and_gpu_types_choose_nodes() -> None:
    inventory = there(
        node("a", gpus=2, kind="NVIDIA A100-SXM4-80GB", labels={"zone": "x"}),
        node("b", gpus=2, kind="NVIDIA H100 80GB HBM3", labels={"zone": "x"}),
        node("c", gpus=2, labels={"zone": "y"}),
    )
    assert spots(place(2, need(gpus=1), inventory, gpu_type="h100", labels={"zone": "x"})) == {"b": 2}
    assert spots(place(1, need(), inventory, labels={"zone": "y"})) == {"c": 1}


def test_a_node_of_mixed_gpus_has_no_type() -> None:
    mixed = Node(name="a", cpus=8, memory=GIB, gpus=(Gpu(name="A100", memory=0), Gpu(name="H100", memory=0)))
    assert misfit(place(1, need(gpus=1), there(mixed), gpu_type="H100")).binding == "GPU type"


@pytest.mark.parametrize(
    ("resources", "free", "expected"),
    [
        (need(cpus=2), Free(cpus=7, gpus=0, memory=0), 3),
        (need(cpus=0), Free(cpus=0, gpus=0, memory=0), UNLIMITED),
        (need(gpus=0.5), Free(cpus=99, gpus=2, memory=0), 4),
        (need(gpus=0.6), Free(cpus=99, gpus=2, memory=0), 2),
        (need(gpus=0.25), Free(cpus=99, gpus=1.5, memory=0), 6),
        (need(gpus=1 / 3), Free(cpus=99, gpus=1, memory=0), 3),
        (need(cpus=0.1), Free(cpus=0.3, gpus=0, memory=0), 3),
        (need(gpus=2), Free(cpus=99, gpus=3, memory=0), 1),
        (need(memory=3), Free(cpus=99, gpus=0, memory=8), 2),
    ],
)
def test_how_many_a_node_holds(resources: WorkerResources, free: Free, expected: int) -> None:
    assert holds(resources, free) == expected


def test_workers_that_share_layers_are_on_one_node() -> None:
    """With three GPUs free on each of two nodes, four workers would be 3 and 1: groups of two are 2 and 2."""
    threes = there(node("a", gpus=3), node("b", gpus=3))
    assert spots(place(4, need(gpus=1), threes, nodes=2)) == {"a": 3, "b": 1}
    assert spots(place(4, need(gpus=1), threes, nodes=2, together=2)) == {"a": 2, "b": 2}
    assert spots(place(6, need(gpus=1), there(node("a", gpus=5), node("b", gpus=2)), nodes=2, together=2)) == {
        "a": 4,
        "b": 2,
    }
    wide = there(node("a", gpus=4), node("b", gpus=2), node("c", gpus=3))
    assert spots(place(6, need(gpus=1), wide, nodes=2, style=SPREAD, together=2)) == {"a": 4, "b": 2}


def test_what_is_taken_is_waited_for() -> None:
    busy = node("a", gpus=4, free=Free(cpus=8, gpus=1, memory=64 * GIB))
    found = place(2, need(gpus=1), there(busy))
    assert isinstance(found, Placement)
    assert not found.fits_now
    assert found.waits_for is not None
    assert found.waits_for.reason == "2 workers with 1 GPU each need 2 GPUs, and there is 1 free"
    assert texts(found.waits_for) == ["cluster.workers=1"]
    assert (
        misfit(place(5, need(gpus=1), there(busy))).reason == "5 workers with 1 GPU each need 5 GPUs, and there are 4"
    )


# --- why not, and what would -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "binding", "numbers", "reason", "changes"),
    [
        (
            place(8, need(gpus=1), TWO_FOURS),
            "nodes",
            (2, 1),
            "8 workers would not fit on 1 node: at most 4 would",
            ["cluster.workers=4", "cluster.nodes=2"],
        ),
        (
            place(9, need(gpus=1), TWO_FOURS, nodes=2),
            "GPU",
            (9, 8),
            "9 workers with 1 GPU each need 9 GPUs, and there are 8",
            ["cluster.workers=8"],
        ),
        (
            place(2, need(gpus=2), there(node("a", gpus=3), node("b", gpus=1)), nodes=2),
            "GPU",
            (4, 4),
            "2 workers with 2 GPUs each need 4 GPUs, and there are 4, but so divided over the nodes that 1 worker can fit",
            ["cluster.workers=1", "cluster.gpus_per_worker=1"],
        ),
        (
            place(2, need(gpus=2), there(node("a", gpus=1))),
            "GPU",
            (4, 1),
            "2 workers with 2 GPUs each need 4 GPUs, and there is 1",
            ["cluster.gpus_per_worker=1 with cluster.workers=1"],
        ),
        (
            place(2, need(gpus=1), there(node("a"))),
            "GPU",
            (2, 0),
            "2 workers with 1 GPU each need 2 GPUs, and there are none",
            ["cluster.gpus_per_worker=0 to train on CPUs"],
        ),
        (
            place(4, need(cpus=3), there(node("a"))),
            "CPU",
            (12, 8),
            "4 workers with 3 CPUs each need 12 CPUs, and there are 8",
            ["cluster.workers=2", "cluster.cpus_per_worker=2"],
        ),
        (
            place(4, need(gpus=1, cpus=4), there(node("a", gpus=4))),
            "CPU",
            (16, 8),
            "4 workers with 4 CPUs each need 16 CPUs, and there are 8",
            ["cluster.workers=2", "cluster.cpus_per_worker=2"],
        ),
        (
            place(4, need(memory=20 * GIB), there(node("a"))),
            "memory",
            (80 * GIB, 64 * GIB),
            "4 workers with 20 GiB of memory each need 80 GiB, and there is 64 GiB",
            ["cluster.workers=3", "cluster.memory_per_worker=16GiB"],
        ),
        (
            place(1, need(gpus=1), TWO_FOURS, gpu_type="A100"),
            "GPU type",
            (1, 0),
            "no node has GPUs of type A100: there are H100",
            ["cluster.gpu_type=H100"],
        ),
        (
            place(2, need(), there(node("a", labels={"zone": "x"}), node("b")), labels={"zone": "y"}),
            "labels",
            (1, 0),
            "no node has the labels zone=y",
            ["cluster.labels.zone=y"],
        ),
        (
            place(6, need(gpus=1), there(node("a", gpus=4, labels={"z": "x"}), node("b", gpus=8)), labels={"z": "x"}),
            "GPU",
            (6, 4),
            "6 workers with 1 GPU each need 6 GPUs, and the nodes with z=x have 4",
            ["cluster.workers=4", "cluster.labels.z=x"],
        ),
        (
            place(6, need(gpus=1), there(node("a", gpus=5), node("b", gpus=2)), nodes=2, style=SPREAD),
            "nodes",
            (2, 1),
            "6 workers cannot be spread evenly over 2 nodes: 2 must take 3 each, and 1 can",
            ["cluster.workers=5", "cluster.placement=pack"],
        ),
        (
            place(3, need(), there(node("a"), node("b")), nodes=3, style=SPREAD),
            "nodes",
            (3, 2),
            "3 workers cannot be spread evenly over 3 nodes: 3 must take 1 each, and 2 can",
            ["cluster.workers=2", "cluster.nodes=2", "cluster.placement=pack"],
        ),
        (
            place(6, need(gpus=1), there(node("a", gpus=3), node("b", gpus=3)), nodes=2, together=2),
            "GPU",
            (6, 6),
            "6 workers with 1 GPU each need 6 GPUs, and there are 6, but so divided over the nodes that 4 workers can "
            "fit (mesh.tensor=2 keeps 2 workers on one node)",
            ["cluster.workers=4"],
        ),
        (
            place(4, need(gpus=1), there(node("a", gpus=4), node("b", gpus=1)), nodes=2, style=SPREAD, together=2),
            "nodes",
            (2, 1),
            "4 workers cannot be spread evenly over 2 nodes: 2 must take 2 each, and 1 can (mesh.tensor=2 keeps 2 "
            "workers on one node)",
            ["cluster.workers=2", "cluster.nodes=1", "cluster.placement=pack"],
        ),
        (place(1, need(), there()), "CPU", (1, 0), "1 worker with 1 CPU needs 1 CPU, and there are none", []),
        (place(1, need(cpus=0), there()), "nodes", (1, 0), "there are no nodes", []),
    ],
)
def test_misfit(
    found: Placement | Misfit, binding: str, numbers: tuple[float, float], reason: str, changes: list[str]
) -> None:
    missed = misfit(found)
    assert (missed.binding, (missed.needed, missed.there), missed.reason) == (binding, numbers, reason)
    assert texts(missed) == changes


def test_fewer_workers_are_named_only_if_they_can_run() -> None:
    missed = misfit(place(9, need(gpus=1), TWO_FOURS, nodes=2))
    assert [change.settings for change in missed.changes(lambda workers: workers % 3 == 0)] == [("cluster.workers=6",)]


def test_hint_tells_what_each_node_has() -> None:
    busy = node("b", gpus=4, free=Free(cpus=2, gpus=1, memory=32 * GIB))
    inventory = there(node("a", gpus=4, labels={"zone": "x"}), busy, node("c"))
    missed = misfit(place(6, need(gpus=1), inventory, labels={"zone": "x"}))
    assert hint(missed, missed.changes()).splitlines() == [
        "Set cluster.workers=4.",
        "Free now:",
        "  a: 8 of 8 CPUs, 4 of 4 GPUs (H100), 64 GiB of 64 GiB: room for 4 workers",
        "  b: 2 of 8 CPUs, 1 of 4 GPUs (H100), 32 GiB of 64 GiB: no room",
        "  c: 8 of 8 CPUs, 64 GiB of 64 GiB: no room",
    ]
    many = misfit(place(60, need(gpus=1), there(*(node(f"n{number:02}", gpus=1) for number in range(40))), nodes=60))
    assert hint(many, many.changes()).splitlines()[-1] == "  and 28 more"


def test_hint_with_a_label_to_leave_out() -> None:
    missed = misfit(place(2, need(), there(node("a")), labels={"zone": "y"}))
    assert hint(missed, missed.changes()) == "Leave out cluster.labels.zone=y."


# --- against a placer that tries everything --------------------------------------------------------------------------


def everything(gang: Gang, inventory: Inventory, *, now: bool) -> Iterator[dict[str, int]]:
    """Every way to divide the workers over the nodes that keeps to the rules, found by trying them all."""
    nodes = [item for item in inventory.nodes if has_labels(item, gang.labels) and has_gpu_type(item, gang.gpu_type)]
    most = [min(gang.workers, holds(gang.resources, item.now if now else item.all)) for item in nodes]
    for counts in itertools.product(*(range(number + 1) for number in most)):
        used = [number for number in counts if number]
        if sum(counts) != gang.workers or len(used) > gang.nodes or any(number % gang.together for number in used):
            continue
        groups = gang.workers // gang.together
        even = len(used) == min(gang.nodes, groups) and max(used) - min(used) <= gang.together
        if gang.style is PACK or even:
            yield {item.name: number for item, number in zip(nodes, counts, strict=True) if number}


def random_case(luck: random.Random) -> tuple[Gang, Inventory]:
    nodes = []
    for name in luck.sample("abcd", luck.randint(0, 4)):
        cpus, gpus = luck.randint(0, 6), luck.randint(0, 3)
        free = Free(cpus=luck.randint(0, cpus), gpus=luck.choice([0, gpus, gpus / 2]), memory=luck.randint(0, 4) * GIB)
        labels = {"zone": luck.choice("xy")} if luck.random() < 0.7 else {}
        kind = luck.choice(["A100", "H100"])
        free_now = free if luck.random() < 0.4 else None
        nodes.append(node(name, cpus, gpus, kind, memory=4 * GIB, labels=labels, free=free_now))
    together = luck.choice([1, 1, 1, 2, 3])
    gang = Gang(
        workers=luck.randint(1, 7 // together) * together,
        resources=need(luck.choice([0, 1, 1, 2]), luck.choice([0, 0, 0.5, 1, 2]), luck.choice([0, 0, GIB, 3 * GIB])),
        nodes=luck.randint(1, 4),
        style=luck.choice([PACK, SPREAD]),
        gpu_type=luck.choice([None, None, "a100", "B200"]),
        labels=luck.choice([{}, {}, {"zone": "x"}]),
        together=together,
    )
    return gang, there(*nodes)


def ask(gang: Gang, inventory: Inventory) -> Placement | Misfit:
    return place(
        gang.workers,
        gang.resources,
        inventory,
        nodes=gang.nodes,
        style=gang.style,
        gpu_type=gang.gpu_type,
        labels=gang.labels,
        together=gang.together,
    )


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_trying_everything(seed: int) -> None:
    luck = random.Random(seed)
    seen = set()
    for _ in range(400):
        gang, inventory = random_case(luck)
        now, in_all = (list(everything(gang, inventory, now=at_once)) for at_once in (True, False))
        found = ask(gang, inventory)
        if isinstance(found, Misfit):
            seen.add(found.binding)
            assert not in_all
            check_changes(found, in_all=True)
            continue
        seen.add(found.fits_now)
        assert found.fits_now == bool(now)
        ways = now or in_all
        assert spots(found) in ways
        if gang.style is PACK:
            assert len(found.spots) == min(map(len, ways))
        if found.waits_for:
            check_changes(found.waits_for, in_all=False)
        shuffled = dataclasses.replace(inventory, nodes=tuple(luck.sample(inventory.nodes, len(inventory.nodes))))
        assert ask(gang, shuffled) == found or found.waits_for
    assert seen >= {True, False, "GPU", "CPU", "nodes", "GPU type", "labels", "memory"}


def check_changes(missed: Misfit, *, in_all: bool) -> None:
    """Each change named makes it fit, and no larger number of workers does."""
    for change in missed.changes():
        assert any(everything(change.gang, missed.inventory, now=not in_all)), change
    step = missed.gang.together
    fitting = [
        workers
        for workers in range(step, missed.gang.workers, step)
        if any(everything(dataclasses.replace(missed.gang, workers=workers), missed.inventory, now=not in_all))
    ]
    named = [change.gang.workers for change in missed.changes() if change.gang.workers != missed.gang.workers]
    if fitting:
        assert named == [max(fitting)]
    assert lay_out(missed.gang, missed.inventory, now=not in_all) is None
