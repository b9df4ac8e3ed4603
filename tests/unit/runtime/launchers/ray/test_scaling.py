"""How many workers Ray is asked for and on which nodes, with nodes that are busy, gone or our own."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster.nodes.ray_nodes import NODE_ID
from orchestrator.plans.placement.inventory import Free, Inventory, Node
from orchestrator.plans.placement.misfit import Misfit
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.ray.scaling import Scaling, Spots
from orchestrator.runtime.worker.context import Launch

EACH = WorkerResources(cpus=2, gpus=0, threads=1)


def node(name: str, cpus: float = 4, free: float | None = None) -> Node:
    left = Free(cpus=cpus if free is None else free, gpus=0, memory=0)
    return Node(name=name, id=f"id-{name}", cpus=cpus, memory=0, free=left)


def nodes(*some: Node) -> Inventory:
    return Inventory(nodes=some)


def scaling(*sizes: int, own: bool = False, limit: int = 100, **cluster: Any) -> Scaling:
    plan = {"rows": [{"world_size": size} for size in sizes], "spec": {"cluster": {"nodes": 4, **cluster}}}
    launch = Launch(run_id="r", attempt=1, root="/r", project="/p", world_size=limit, plan=plan)
    return Scaling(launch, EACH, own=own)


def chosen(found: Spots | Misfit) -> tuple[int, dict[str, int], int]:
    assert isinstance(found, Spots)
    return found.workers, found.nodes, found.could_be


def test_the_largest_admissible_gang_that_fits_now_is_taken() -> None:
    inventory = nodes(node("a"), node("b", free=2))
    assert chosen(scaling(1, 2, 4).choose(inventory)) == (2, {"id-a": 2}, 4)
    assert chosen(scaling(1, 2, 3, 4).choose(inventory)) == (3, {"id-a": 2, "id-b": 1}, 4)
    assert chosen(scaling(1, 2, 4, limit=1).choose(inventory)) == (1, {"id-b": 1}, 1)


def test_what_the_smallest_lacks_is_told() -> None:
    gone, busy = nodes(node("a", cpus=2)), nodes(node("a", cpus=8, free=2))
    for inventory, ever, word in ((gone, False, "there are 2"), (busy, True, "there are 2 free")):
        found = scaling(2, 4).choose(inventory)
        assert isinstance(found, Misfit)
        assert word in found.reason
        assert scaling(2, 4).could_ever(inventory) is ever


def test_room_counts_what_our_own_workers_hold() -> None:
    inventory = nodes(node("a", free=0), node("b", free=4))
    assert scaling(2, 4).room(inventory, {"id-a": 2}) == 4
    assert scaling(2, 4).room(inventory, {}) == 2
    assert scaling(2, 4).room(nodes(node("b", free=0)), {"id-a": 2}) == 0, "our node is not there any more"


def test_each_worker_is_pinned_to_its_node() -> None:
    spots = scaling(3).choose(nodes(node("a"), node("b")))
    assert isinstance(spots, Spots)
    where = scaling(3).where(spots)
    assert where["label_selector"] == [{NODE_ID: "id-a"}, {NODE_ID: "id-a"}, {NODE_ID: "id-b"}]
    assert spots.names == {"id-a": "a", "id-b": "b"}


def test_a_ray_of_our_own_has_no_rules() -> None:
    own = scaling(2, own=True, labels={"zone": "x"})
    spots = own.choose(nodes(node("a")))
    assert isinstance(spots, Spots)
    assert own.where(spots) == {"placement_strategy": "STRICT_PACK"}
