"""How many workers Ray Train is to start, and where: the plan's rules, applied to the nodes there are now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.cluster.nodes.ray_nodes import NODE_ID
from orchestrator.config.schema import PlacementName
from orchestrator.plans.placement.inventory import Free, Inventory, Node
from orchestrator.plans.placement.misfit import Misfit
from orchestrator.plans.placement.place import Placement, place
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.worker.context import Launch


@dataclass(frozen=True, kw_only=True, slots=True)
class Spots:
    """A gang that there is room for."""

    workers: int
    nodes: dict[str, int]
    """Workers by the id of their node."""
    names: dict[str, str]
    """Names of these nodes, by their ids."""
    could_be: int
    """The largest gang that would fit if nobody else used anything."""


class Scaling:
    """The admissible gangs of one launch, and the rules for placing them.

    `own`: a Ray of our own on this machine, which the plan was made for as it is; Ray has other names for its GPUs.
    """

    def __init__(self, launch: Launch, resources: WorkerResources, *, own: bool) -> None:
        spec: dict[str, Any] = {} if own else launch.plan.get("spec", {})
        rules = spec.get("cluster", {})
        self._own = own
        self._resources = resources
        self._nodes = rules.get("nodes", 1)
        self._style = PlacementName(rules.get("placement", "pack"))
        self._gpu_type = rules.get("gpu_type")
        self._labels = rules.get("labels") or {}
        self._together = spec.get("mesh", {}).get("tensor", 1)
        rows = [row["world_size"] for row in launch.plan.get("rows", ())]
        self.sizes = sorted(size for size in rows or [launch.world_size] if size <= launch.world_size)

    def choose(self, inventory: Inventory) -> Spots | Misfit:
        """The largest gang there is room for now, or what the smallest lacks: for ever, or until others let go."""
        tried = {size: self._place(size, inventory) for size in self.sizes}
        could_be = max((size for size, placed in tried.items() if isinstance(placed, Placement)), default=0)
        for size, placed in reversed(tried.items()):
            if isinstance(placed, Placement) and placed.fits_now:
                ids = {node.name: node.id for node in inventory.nodes}
                return Spots(
                    workers=size,
                    nodes={ids[spot.node]: spot.workers for spot in placed.spots},
                    names={ids[spot.node]: spot.node for spot in placed.spots},
                    could_be=could_be,
                )
        smallest = tried[self.sizes[0]]
        if isinstance(smallest, Misfit):
            return smallest
        assert smallest.waits_for is not None
        return smallest.waits_for

    def could_ever(self, inventory: Inventory) -> bool:
        """Whether some gang would fit if nobody else used anything."""
        return any(isinstance(self._place(size, inventory), Placement) for size in self.sizes)

    def fits_now(self, inventory: Inventory) -> bool:
        """Whether some gang could start at once."""
        return isinstance(self.choose(inventory), Spots)

    def room(self, inventory: Inventory, held: Mapping[str, int]) -> int:
        """The largest gang that would fit now, were the one not there that has workers on the nodes `held`."""
        nodes = tuple(self._without(node, held.get(node.id, 0)) for node in inventory.nodes)
        found = self.choose(dataclasses.replace(inventory, nodes=nodes))
        return 0 if isinstance(found, Misfit) else found.workers

    def where(self, spots: Spots) -> dict[str, Any]:
        """The part of Ray Train's ScalingConfig about nodes: each worker on its own node by name.

        Ray's PACK and SPREAD may use more nodes than cluster.nodes, or unevenly; and of a node that is dead it may not
        know yet.
        """
        if self._own:
            return {"placement_strategy": "STRICT_PACK"}
        pinned = [{NODE_ID: node} for node, workers in spots.nodes.items() for _ in range(workers)]
        return {"placement_strategy": "PACK", "label_selector": pinned}

    def _place(self, size: int, inventory: Inventory) -> Placement | Misfit:
        return place(
            size,
            self._resources,
            inventory,
            nodes=self._nodes,
            style=self._style,
            gpu_type=self._gpu_type,
            labels=self._labels,
            together=self._together,
        )

    def _without(self, node: Node, workers: int) -> Node:
        """A node as if so many of our workers were not on it."""
        each, free = self._resources, node.now
        more = Free(
            cpus=free.cpus + workers * each.cpus,
            gpus=free.gpus + workers * each.gpus,
            memory=free.memory + workers * each.memory,
        )
        return dataclasses.replace(node, free=more)
