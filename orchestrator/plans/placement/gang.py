"""Laying a gang of equal workers out over nodes: all of them, or none. Pure and deterministic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.config.schema import PlacementName
from orchestrator.plans.placement.inventory import Free, Inventory, Node
from orchestrator.plans.types import Spot, WorkerResources

UNLIMITED = 10**6
"""Workers that ask for nothing fit anywhere."""
TINY = 1e-6
"""Ray counts in ten-thousandths; what is smaller is rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gang:
    """What is to be placed, and by which rules."""

    workers: int
    resources: WorkerResources
    nodes: int = 1
    style: PlacementName = PlacementName.pack
    gpu_type: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    together: int = 1
    """Neighbouring workers that must be on one node: those that share layers, which talk in every one of them."""

    @property
    def groups(self) -> int:
        """Of workers that must be together."""
        return self.workers // self.together


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How many of a gang's workers a node can take, in whole groups."""

    node: Node
    workers: int


def lay_out(gang: Gang, inventory: Inventory, *, now: bool) -> tuple[Spot, ...] | None:
    """Where the workers go, or None when they do not all fit. `now`: into what is free, rather than what there is."""
    rooms = [room for room in _rooms(gang, inventory, now=now) if room.workers]
    if gang.style is PlacementName.spread:
        return _spread(gang, rooms)
    return _pack(gang, rooms)


def eligible(gang: Gang, inventory: Inventory) -> list[Node]:
    """Nodes with the labels and the kind of GPU asked for."""
    return [node for node in inventory.nodes if has_labels(node, gang.labels) and has_gpu_type(node, gang.gpu_type)]


def has_labels(node: Node, labels: dict[str, str]) -> bool:
    """Whether a node has all of the labels."""
    return labels.items() <= node.labels.items()


def has_gpu_type(node: Node, gpu_type: str | None) -> bool:
    """Whether whatever GPU a node gives out is of the type: of a mixed node Ray hands out any."""
    if gpu_type is None:
        return True
    return bool(node.gpus) and all(gpu_type.lower() in gpu.name.lower() for gpu in node.gpus)


def holds(resources: WorkerResources, free: Free) -> int:
    """How many workers fit into what a node has."""
    counts = [UNLIMITED]
    if resources.gpus:
        counts.append(_gpu_shares(resources.gpus, free.gpus))
    if resources.cpus:
        counts.append(_whole(free.cpus / resources.cpus))
    if resources.memory:
        counts.append(int(free.memory // resources.memory))
    return max(0, min(counts))


def _gpu_shares(each: float, free: float) -> int:
    """Parts of a GPU come from one GPU: three workers with 0.6 each do not fit on two."""
    if each >= 1:
        return _whole(free / each)
    whole = math.floor(free + TINY)
    return whole * _whole(1 / each) + _whole((free - whole) / each)


def _whole(number: float) -> int:
    return math.floor(number + TINY)


def _rooms(gang: Gang, inventory: Inventory, *, now: bool) -> list[Room]:
    """Every eligible node, the roomiest first, equal ones by name."""
    rooms = []
    for node in eligible(gang, inventory):
        held = holds(gang.resources, node.now if now else node.all)
        rooms.append(Room(node=node, workers=held - held % gang.together))
    return sorted(rooms, key=lambda room: (-room.workers, room.node.name))


def capacity(gang: Gang, inventory: Inventory, *, now: bool) -> list[int]:
    """How many workers each eligible node can take, the largest number first."""
    return [room.workers for room in _rooms(gang, inventory, now=now)]


def _pack(gang: Gang, rooms: Sequence[Room]) -> tuple[Spot, ...] | None:
    """The roomiest nodes, full; what remains goes where least is left over, so that larger gaps stay whole."""
    spots: list[Spot] = []
    left = gang.workers
    for index, room in enumerate(rooms[: gang.nodes]):
        if room.workers >= left:
            tightest = min((other for other in rooms[index:] if other.workers >= left), key=_size)
            return _by_name([*spots, _spot(tightest, left)])
        spots.append(_spot(room, room.workers))
        left -= room.workers
    return None


def _spread(gang: Gang, rooms: Sequence[Room]) -> tuple[Spot, ...] | None:
    """The same number of groups on each of `nodes` nodes, or one more on the roomiest."""
    nodes = min(gang.nodes, gang.groups)
    each, more = divmod(gang.groups, nodes)
    shares = [gang.together * groups for groups in [each + 1] * more + [each] * (nodes - more)]
    if len(rooms) < nodes or any(room.workers < share for room, share in zip(rooms, shares, strict=False)):
        return None
    return _by_name(_spot(room, share) for room, share in zip(rooms, shares, strict=False))


def _size(room: Room) -> tuple[int, str]:
    return room.workers, room.node.name


def _spot(room: Room, workers: int) -> Spot:
    return Spot(node=room.node.name, workers=workers, gpu=room.node.gpu_kind)


def _by_name(spots: Iterable[Spot]) -> tuple[Spot, ...]:
    return tuple(sorted(spots, key=lambda spot: spot.node))
