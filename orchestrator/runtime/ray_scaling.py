"""Where Ray Train is to start the workers: the plan's rules, applied to the nodes that are alive now."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster.ray_nodes import NODE_ID
from orchestrator.config.schema import PlacementName
from orchestrator.errors import MachineError
from orchestrator.plan.inventory import Inventory
from orchestrator.plan.misfit import Misfit, hint
from orchestrator.plan.placement import Placement, place
from orchestrator.plan.types import WorkerResources
from orchestrator.runtime.context import Launch


def per_worker(resources: WorkerResources) -> dict[str, float]:
    """What Ray reserves for each worker."""
    given = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory}
    return {name: amount for name, amount in given.items() if amount}


def where(launch: Launch, resources: WorkerResources, inventory: Inventory, *, own: bool) -> dict[str, Any]:
    """The part of Ray Train's ScalingConfig about nodes. Refuses a gang that would wait for ever.

    `own`: a Ray of our own on this machine, which the plan was made for as it is; Ray has other names for its GPUs.
    """
    rules: dict[str, Any] = {} if own else launch.plan.get("spec", {}).get("cluster", {})
    nodes, style = rules.get("nodes", 1), PlacementName(rules.get("placement", "pack"))
    gpu_type, labels = rules.get("gpu_type"), rules.get("labels") or {}
    placed = place(launch.world_size, resources, inventory, nodes=nodes, style=style, gpu_type=gpu_type, labels=labels)
    if isinstance(placed, Misfit):
        raise MachineError(f"{placed.reason}.", hint(placed, placed.changes()))
    if nodes > 1:
        return {"placement_strategy": _strategy(style, launch.world_size, nodes), **_pinned(placed, inventory)}
    kinds = {spot.gpu for spot in placed.spots}
    return {
        "placement_strategy": "STRICT_PACK",
        "accelerator_type": kinds.pop() if gpu_type else None,
        "label_selector": labels or None,
    }


def _strategy(style: PlacementName, workers: int, nodes: int) -> str:
    if style is PlacementName.pack:
        return "PACK"
    return "STRICT_SPREAD" if workers <= nodes else "SPREAD"


def _pinned(placed: Placement, inventory: Inventory) -> dict[str, Any]:
    """Each worker on its own node by name: Ray's PACK and SPREAD may use more nodes than cluster.nodes, or unevenly."""
    ids = {node.name: node.id for node in inventory.nodes}
    return {"label_selector": [{NODE_ID: ids[spot.node]} for spot in placed.spots for _ in range(spot.workers)]}
