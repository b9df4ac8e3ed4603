"""Where the workers go: the answer to "does it fit, and if not, what would?"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.schema import PlacementName
from orchestrator.plans.placement.gang import Gang, lay_out
from orchestrator.plans.placement.inventory import Inventory
from orchestrator.plans.placement.misfit import Misfit
from orchestrator.plans.types import Spot, WorkerResources


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where all workers of a gang go."""

    spots: tuple[Spot, ...]
    """By the name of the node."""
    waits_for: Misfit | None = None
    """What is missing now, although there is enough in all: the gang waits until others let go of it."""

    @property
    def fits_now(self) -> bool:
        """Whether the gang could start at once."""
        return self.waits_for is None


def place(
    workers: int,
    resources: WorkerResources,
    inventory: Inventory,
    *,
    nodes: int = 1,
    style: PlacementName = PlacementName.pack,
    gpu_type: str | None = None,
    labels: Mapping[str, str] | None = None,
    together: int = 1,
) -> Placement | Misfit:
    """Place `workers` equal workers, all or none, on at most `nodes` nodes, each `together` of them on one node."""
    gang = Gang(
        workers=workers,
        resources=resources,
        nodes=nodes,
        style=style,
        gpu_type=gpu_type,
        labels=dict(labels or {}),
        together=together,
    )
    spots = lay_out(gang, inventory, now=True)
    if spots is not None:
        return Placement(spots=spots)
    spots = lay_out(gang, inventory, now=False)
    if spots is not None:
        return Placement(spots=spots, waits_for=Misfit.of(gang, inventory, now=True))
    return Misfit.of(gang, inventory, now=False)
