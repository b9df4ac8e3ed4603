"""Who holds what of Ray's nodes, and whose end would make room: by the names that our gangs give what they hold."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orchestrator.plans.placement.inventory import Free, Inventory, Node
from orchestrator.plans.placement.misfit import Misfit

PREFIX = "orchestrator"
"""How the names of our gangs' placement groups begin; then come run and attempt."""
KINDS = {"cpus": "CPU", "gpus": "GPU", "memory": "memory"}
"""Our names of what a node has, and Ray's."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What one run holds of one node."""

    run: str
    attempt: int
    node: str
    workers: int
    cpus: float
    gpus: float
    memory: int


def group_name(run: str, attempt: int) -> str:
    """The name under which a gang holds its resources."""
    return f"{PREFIX}:{run}:{attempt}"


def now() -> list[Holding]:
    """What gangs hold, in a process that is connected to Ray."""
    import ray

    from orchestrator.cluster.nodes import ray_nodes

    names = ray_nodes.names([node for node in ray.nodes() if node["Alive"]])
    return read(ray.util.placement_group_table().values(), names)


def read(groups: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> list[Holding]:
    """Make sense of Ray's table of placement groups; `names`: of nodes, by Ray's ids."""
    found = []
    for group in groups:
        kind, _, rest = str(group.get("name", "")).partition(":")
        run, _, attempt = rest.rpartition(":")
        if kind == PREFIX and attempt.isdigit() and group.get("state") == "CREATED":
            found += _of_group(run, int(attempt), group, names)
    return sorted(found, key=lambda holding: (holding.node, holding.run))


def _of_group(run: str, attempt: int, group: Mapping[str, Any], names: Mapping[str, str]) -> list[Holding]:
    sums: dict[str, Counter[str]] = {}
    for index, node in group.get("bundles_to_node_id", {}).items():
        sums.setdefault(node, Counter()).update({**group["bundles"][index], "workers": 1})
    return [
        Holding(
            run=run,
            attempt=attempt,
            node=names.get(node, node[:8]),
            workers=held["workers"],
            **{ours: held[rays] for ours, rays in KINDS.items()},
        )
        for node, held in sums.items()
    ]


def explain(
    misfit: Misfit, inventory: Inventory, holdings: list[Holding], fits: Callable[[Inventory], bool]
) -> dict[str, Any]:
    """What a gang waits for, as plain data: the nodes, who holds what of them, and what would let it start.

    `fits`: whether the gang could start at once on nodes like these.
    """
    return {
        "binding": misfit.binding,
        "needed": misfit.needed,
        "there": misfit.there,
        "changes": [{"settings": list(change.settings), "leave_out": change.leave_out} for change in misfit.changes()],
        "nodes": [
            {
                "node": room.node,
                "gpu": room.gpu,
                "free": dataclasses.asdict(room.free),
                "all": dataclasses.asdict(room.all),
                "workers": room.workers,
            }
            for room in misfit.rooms
        ],
        "holders": [dataclasses.asdict(holding) for holding in holdings],
        **until(inventory, holdings, fits),
    }


def until(inventory: Inventory, holdings: list[Holding], fits: Callable[[Inventory], bool]) -> dict[str, Any]:
    """Which runs' end would let the gang start: `until` any one of them ends, or all of them `together`."""
    runs = list(dict.fromkeys(holding.run for holding in holdings))
    each = [run for run in runs if fits(without(inventory, holdings, {run}))]
    if each or len(runs) < 2:
        return {"until": each, "together": False}
    return {"until": runs if fits(without(inventory, holdings, set(runs))) else [], "together": True}


def without(inventory: Inventory, holdings: list[Holding], runs: set[str]) -> Inventory:
    """The nodes as they would be if these runs had ended."""

    def freed(node: Node) -> Node:
        back = [holding for holding in holdings if holding.node == node.name and holding.run in runs]
        free = Free(
            cpus=min(node.all.cpus, node.now.cpus + sum(holding.cpus for holding in back)),
            gpus=min(node.all.gpus, node.now.gpus + sum(holding.gpus for holding in back)),
            memory=min(node.all.memory, node.now.memory + sum(holding.memory for holding in back)),
        )
        return dataclasses.replace(node, free=free)

    return dataclasses.replace(inventory, nodes=tuple(freed(node) for node in inventory.nodes))
