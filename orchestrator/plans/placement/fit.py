"""Whether what a spec asks for fits an inventory: the questions that `make` has for placement."""

from __future__ import annotations

import dataclasses

from orchestrator.config.schema import JobSpec, WorkerRange
from orchestrator.errors import MachineError, PlanError
from orchestrator.plans import batch
from orchestrator.plans.placement.gang import Gang, eligible
from orchestrator.plans.placement.inventory import Inventory
from orchestrator.plans.placement.misfit import Misfit, hint
from orchestrator.plans.placement.place import Placement, place
from orchestrator.plans.types import WorkerResources


def usable(spec: JobSpec, inventory: Inventory) -> Inventory:
    """The part of an inventory that the spec's labels and GPU type allow."""
    rules = Gang(
        workers=1,
        resources=WorkerResources(cpus=0, gpus=0, threads=1),
        gpu_type=spec.cluster.gpu_type,
        labels=spec.cluster.labels,
    )
    return dataclasses.replace(inventory, nodes=tuple(eligible(rules, inventory)))


def try_place(
    spec: JobSpec, inventory: Inventory, resources: WorkerResources, workers: int
) -> Placement | Misfit | None:
    """Place so many of a spec's workers; None when nobody knows what there is."""
    if not inventory.known:
        return None
    cluster = spec.cluster
    if cluster.address is None:
        # A Ray of our own has as many CPUs as it is told to, and torchrun counts none: they are shared.
        resources = dataclasses.replace(resources, cpus=0.0)
    return place(
        workers,
        resources,
        inventory,
        nodes=cluster.nodes,
        style=cluster.placement,
        gpu_type=cluster.gpu_type,
        labels=cluster.labels,
        together=spec.mesh.tensor,
    )


def beyond(spec: JobSpec, inventory: Inventory, resources: WorkerResources) -> dict[int, str]:
    """World sizes of a range that there is no room for, provided that some smaller one fits."""
    workers = WorkerRange.parse(spec.cluster.workers)
    if workers is None or isinstance(try_place(spec, inventory, resources, workers.low), Misfit):
        return {}
    tried = {size: try_place(spec, inventory, resources, size) for size in range(workers.low, workers.high + 1)}
    return {size: misfit.reason for size, misfit in tried.items() if isinstance(misfit, Misfit)}


def require_place(spec: JobSpec, inventory: Inventory, resources: WorkerResources, workers: int) -> Placement | None:
    """Place the workers, or refuse with what binds and what would fit; None when nobody knows what there is."""
    placed = try_place(spec, inventory, resources, workers)
    if isinstance(placed, Misfit):
        raise MachineError(f"{placed.reason}.", hint(placed, placed.changes(lambda count: _runs(spec, count))))
    return placed


def waiting(spec: JobSpec, placed: Placement | None) -> str:
    """What the gang would wait for, and how it could start at once; empty when it can, or nobody knows."""
    if placed is None or placed.waits_for is None:
        return ""
    changes = placed.waits_for.changes(lambda count: _runs(spec, count))
    ways = " or ".join(" with ".join(change.settings) for change in changes if not change.leave_out)
    return f"The workers would wait: {placed.waits_for.reason}." + (f" At once: {ways}." if ways else "")


def _runs(spec: JobSpec, workers: int) -> bool:
    """Whether the batch factors and the mesh allow exactly so many workers."""
    try:
        batch.arrange(dataclasses.replace(spec, cluster=dataclasses.replace(spec.cluster, workers=workers)))
    except PlanError:
        return False
    return True
