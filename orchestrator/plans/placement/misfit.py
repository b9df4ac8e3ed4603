"""Why a gang does not fit, and the smallest changes with which it would; each change is tried before it is named."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from orchestrator.config.schema import PlacementName
from orchestrator.foundation.units import GIB, show_bytes
from orchestrator.plans.placement.gang import Gang, capacity, eligible, has_labels, lay_out
from orchestrator.plans.placement.inventory import Free, Inventory, Node
from orchestrator.plans.types import WorkerResources

RESOURCES = {"gpus": "GPU", "cpus": "CPU", "memory": "memory"}
"""The most precious first: it is named when several are short."""
TABLE_ROWS = 12
MIB = 2**20

Admissible = Callable[[int], bool]
"""Whether so many workers can run at all, however much room there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What to set differently, with which the gang fits."""

    settings: tuple[str, ...]
    """As on a command line: `cluster.workers=2`. Several: all of them together."""
    gang: Gang
    """The gang after the change."""
    leave_out: bool = False
    """The setting is to be dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRoom:
    """What one node has, and has free."""

    node: str
    gpu: str
    free: Free
    all: Free
    workers: int
    """How many of the gang's workers it could take now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """A gang that does not fit: which resource binds, how much is needed and how much is there."""

    gang: Gang
    inventory: Inventory = field(repr=False)
    now: bool
    """Compared with what is free now, rather than with all there is."""
    binding: str
    """GPU, CPU, memory, nodes, GPU type or labels."""
    needed: float
    there: float
    reason: str
    """All of it as a sentence, without the full stop."""

    @classmethod
    def of(cls, gang: Gang, inventory: Inventory, *, now: bool) -> Misfit:
        """Find out why a gang that does not fit does not."""
        binding, needed, there, reason = _bound(gang, inventory, now=now)
        return cls(gang=gang, inventory=inventory, now=now, binding=binding, needed=needed, there=there, reason=reason)

    def changes(self, admissible: Admissible = lambda workers: True) -> list[Change]:
        """The smallest changes that make it fit, one per setting; pairs with fewer workers when no single one does."""
        single = [_fewer_workers(self, self.gang, admissible)]
        single += [next((change for change in way if _fits(self, change.gang)), None) for way in _ways(self)]
        if any(single):
            return [change for change in single if change]
        pairs = (next(_with_fewer_workers(self, way, admissible), None) for way in _ways(self))
        return [change for change in pairs if change]

    @property
    def rooms(self) -> tuple[NodeRoom, ...]:
        """What each node has, by name; those without the labels or the GPU type take no worker."""
        takes = dict(_takes(self.gang, self.inventory))
        return tuple(
            NodeRoom(node=node.name, gpu=node.gpu_kind, free=node.now, all=node.all, workers=takes.get(node.name, 0))
            for node in sorted(self.inventory.nodes, key=lambda node: node.name)
        )


def hint(misfit: Misfit, changes: list[Change]) -> str:
    """What to do about it, and below it, where there are several nodes, what each of them has."""
    settings = [" with ".join(change.settings) for change in changes if not change.leave_out]
    dropped = [" and ".join(change.settings) for change in changes if change.leave_out]
    ways = ([f"set {' or '.join(settings)}"] if settings else []) + [f"leave out {text}" for text in dropped]
    told = ", or ".join(ways)
    first = f"{told[:1].upper()}{told[1:]}." if told else "No single change makes it fit."
    rooms = misfit.rooms
    if len(rooms) <= 1:
        return first
    more = [f"  and {len(rooms) - TABLE_ROWS} more"] if len(rooms) > TABLE_ROWS else []
    return "\n".join([first, "Free now:", *map(_line, rooms[:TABLE_ROWS]), *more])


def _line(room: NodeRoom) -> str:
    free, everything = room.free, room.all
    gpus = f", {free.gpus:g} of {everything.gpus:g} GPUs ({room.gpu})" if everything.gpus else ""
    memory = f", {show_bytes(free.memory)} of {show_bytes(everything.memory)}" if everything.memory else ""
    takes = f"room for {count(room.workers, 'worker')}" if room.workers else "no room"
    return f"  {room.node}: {free.cpus:g} of {everything.cpus:g} CPUs{gpus}{memory}: {takes}"


def _takes(gang: Gang, inventory: Inventory) -> Iterator[tuple[str, int]]:
    for node in eligible(gang, inventory):
        yield node.name, sum(capacity(gang, Inventory(nodes=(node,)), now=True))


# --- why not ---------------------------------------------------------------------------------------------------------


def _bound(gang: Gang, inventory: Inventory, *, now: bool) -> tuple[str, float, float, str]:
    """Binding resource, how much of it is needed, how much there is, and the sentence.

    The rules are laid on one after the other: the first under which the gang does not fit any more is the one.
    """
    labelled = [node for node in inventory.nodes if has_labels(node, gang.labels)]
    if gang.labels and not labelled:
        return "labels", 1, 0, f"no node has the labels {_labels(gang)}"
    if gang.gpu_type and not eligible(gang, inventory):
        return "GPU type", 1, 0, _no_such_gpu(gang, labelled)
    for name in RESOURCES:
        so_far = dataclasses.replace(gang, resources=_up_to(gang.resources, name))
        if getattr(gang.resources, name) and sum(capacity(so_far, inventory, now=now)) < gang.workers:
            return _short_of(name, so_far, inventory, now=now)
    return _too_few_nodes(gang, capacity(gang, inventory, now=now), now=now)


def _up_to(resources: WorkerResources, last: str) -> WorkerResources:
    """The resources up to one of RESOURCES; nothing of those behind it."""
    behind = list(RESOURCES)[list(RESOURCES).index(last) + 1 :]
    return dataclasses.replace(resources, **dict.fromkeys(behind, 0))


def _short_of(name: str, gang: Gang, inventory: Inventory, *, now: bool) -> tuple[str, float, float, str]:
    each = getattr(gang.resources, name)
    needed = gang.workers * each
    nodes = eligible(gang, inventory)
    there = sum(getattr(node.now if now else node.all, name) for node in nodes)
    given = f"{_amount(name, each)}{' of memory' if name == 'memory' else ''}"
    asking = f"{gang.workers} workers with {given} each need" if gang.workers > 1 else f"1 worker with {given} needs"
    reason = f"{asking} {_amount(name, needed)}, and {_there(name, there, gang, now=now)}"
    if needed <= there:
        # Enough in all, but in pieces that are too small, or beside too little of something else.
        fitting = sum(capacity(gang, inventory, now=now))
        reason += f", but so divided over the nodes that {count(fitting, 'worker') if fitting else 'no worker'} can fit"
        reason += _together(gang)
    return RESOURCES[name], needed, there, reason


def _there(name: str, there: float, gang: Gang, *, now: bool) -> str:
    amount = (_amount(name, there) if name == "memory" else f"{there:g}") if there else "none"
    free = " free" if now else ""
    asked = [*([_labels(gang)] if gang.labels else []), *([f"{gang.gpu_type} GPUs"] if gang.gpu_type else [])]
    if asked:
        return f"the nodes with {' and '.join(asked)} have {amount}{free}"
    return f"there {'is' if there == 1 or (name == 'memory' and there) else 'are'} {amount}{free}"


def _no_such_gpu(gang: Gang, nodes: list[Node]) -> str:
    kinds = sorted({node.gpu_kind for node in nodes if node.gpus})
    where = f" with {_labels(gang)}" if gang.labels else ""
    return f"no node{where} has GPUs of type {gang.gpu_type}: there are {', '.join(kinds) or 'none'}"


def _too_few_nodes(gang: Gang, takes: list[int], *, now: bool) -> tuple[str, float, float, str]:
    if not takes:
        return "nodes", 1, 0, "there are no nodes"
    at_once = " now" if now else ""
    workers = count(gang.workers, "worker")
    if gang.style is PlacementName.pack:
        needed = next((nodes for nodes in range(len(takes) + 1) if sum(takes[:nodes]) >= gang.workers), 0)
        most = sum(takes[: gang.nodes])
        reason = f"{workers} would not fit on {count(gang.nodes, 'node')}{at_once}: at most {most} would"
        return "nodes", needed, gang.nodes, reason + _together(gang)
    nodes = min(gang.nodes, gang.groups)
    each, more = divmod(gang.groups, nodes)
    wanted, share = nodes, each * gang.together
    if sum(taken >= share for taken in takes) >= nodes:
        wanted, share = more, share + gang.together
    able = sum(taken >= share for taken in takes)
    reason = (
        f"{workers} cannot be spread evenly over {count(nodes, 'node')}{at_once}: "
        f"{wanted} must take {share} each, and {able or 'none'} can{_together(gang)}"
    )
    return "nodes", wanted, able, reason


# --- what would ------------------------------------------------------------------------------------------------------


def _fits(misfit: Misfit, gang: Gang) -> bool:
    return lay_out(gang, misfit.inventory, now=misfit.now) is not None


def _fewer_workers(misfit: Misfit, gang: Gang, admissible: Admissible) -> Change | None:
    """The largest smaller number of workers that fits and can run: wherever n groups fit, fewer do as well."""

    def too_many(groups: int) -> bool:
        return not _fits(misfit, dataclasses.replace(gang, workers=groups * gang.together))

    most = bisect_left(range(1, gang.groups), True, key=too_many)
    sizes = range(most * gang.together, 0, -gang.together)
    workers = next((workers for workers in sizes if admissible(workers)), 0)
    return _change(gang, "workers", workers, workers=workers) if workers else None


def _with_fewer_workers(misfit: Misfit, way: Iterable[Change], admissible: Admissible) -> Iterator[Change]:
    for change in way:
        fewer = None if change.leave_out else _fewer_workers(misfit, change.gang, admissible)
        if fewer:
            yield Change(settings=(*change.settings, *fewer.settings), gang=fewer.gang)


def _ways(misfit: Misfit) -> list[Iterable[Change]]:
    """For each setting but the number of workers, other values of it, the smallest change first; not yet tried."""
    gang, inventory = misfit.gang, misfit.inventory
    return [
        _other_nodes(misfit),
        _other_style(gang),
        _fewer_gpus(gang, inventory),
        _fewer_cpus(gang),
        _less_memory(misfit),
        _other_gpu_types(gang, inventory),
        _fewer_labels(gang),
    ]


def _change(gang: Gang, key: str, shown: object, **fields: object) -> Change:
    return Change(settings=(f"cluster.{key}={shown}",), gang=dataclasses.replace(gang, **fields))  # type: ignore[arg-type]


def _with_resources(gang: Gang, **resources: float) -> WorkerResources:
    return dataclasses.replace(gang.resources, **resources)  # type: ignore[arg-type]


def _other_nodes(misfit: Misfit) -> Iterator[Change]:
    gang = misfit.gang
    numbers = [number for number in range(1, len(misfit.inventory.nodes) + 1) if number != gang.nodes]
    if gang.style is PlacementName.pack:
        numbers = [number for number in numbers if number > gang.nodes]
    for number in sorted(numbers, key=lambda number: (abs(number - gang.nodes), number)):
        yield _change(gang, "nodes", number, nodes=number)


def _other_style(gang: Gang) -> Iterator[Change]:
    if gang.style is PlacementName.spread:
        yield _change(gang, "placement", "pack", style=PlacementName.pack)


def _fewer_gpus(gang: Gang, inventory: Inventory) -> Iterator[Change]:
    """Whole GPUs only: workers that share one cannot talk through NCCL."""
    for gpus in range(int(gang.resources.gpus) - 1, 0, -1):
        yield _change(gang, "gpus_per_worker", gpus, resources=_with_resources(gang, gpus=float(gpus)))
    if gang.resources.gpus and not any(node.gpus for node in eligible(gang, inventory)):
        without = _with_resources(gang, gpus=0.0)
        yield _change(gang, "gpus_per_worker", "0 to train on CPUs", resources=without)


def _fewer_cpus(gang: Gang) -> Iterator[Change]:
    cpus = gang.resources.cpus
    for fewer in range(int(cpus) - (cpus == int(cpus)), 0, -1):
        yield _change(gang, "cpus_per_worker", fewer, resources=_with_resources(gang, cpus=float(fewer)))


def _less_memory(misfit: Misfit) -> Iterator[Change]:
    """The most that fits for all workers, and the most that fits for one group, in whole GiB or else MiB."""
    gang = misfit.gang
    for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
        for workers in sorted({gang.workers, gang.together}, reverse=True):
            amount = _most_memory(misfit, dataclasses.replace(gang, workers=workers), unit)
            if amount:
                resources = _with_resources(gang, memory=amount * unit)
                yield _change(gang, "memory_per_worker", f"{amount}{name}", resources=resources)


def _most_memory(misfit: Misfit, gang: Gang, unit: int) -> int:
    def too_much(amount: int) -> bool:
        return not _fits(misfit, dataclasses.replace(gang, resources=_with_resources(gang, memory=amount * unit)))

    return bisect_left(range(1, -(-gang.resources.memory // unit)), True, key=too_much)


def _other_gpu_types(gang: Gang, inventory: Inventory) -> Iterator[Change]:
    if gang.gpu_type is None:
        return
    labelled = [node for node in inventory.nodes if has_labels(node, gang.labels)]
    for kind in sorted({node.gpu_kind for node in labelled if len({gpu.name for gpu in node.gpus}) == 1}):
        if gang.gpu_type.lower() not in kind.lower():
            yield _change(gang, "gpu_type", kind if " " not in kind else f"'{kind}'", gpu_type=kind)
    yield _change(gang, "gpu_type", "null", gpu_type=None)


def _fewer_labels(gang: Gang) -> Iterator[Change]:
    """Each label by itself, then all of them."""
    dropped: list[tuple[str, ...]] = [(key,) for key in sorted(gang.labels)]
    if len(gang.labels) > 1:
        dropped.append(tuple(sorted(gang.labels)))
    for keys in dropped:
        kept = {key: value for key, value in gang.labels.items() if key not in keys}
        settings = tuple(f"cluster.labels.{key}={gang.labels[key]}" for key in keys)
        yield Change(settings=settings, gang=dataclasses.replace(gang, labels=kept), leave_out=True)


# --- words -----------------------------------------------------------------------------------------------------------


def count(number: float, noun: str) -> str:
    """A number with its noun: 1 GPU, 2 GPUs."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _together(gang: Gang) -> str:
    if gang.together == 1:
        return ""
    return f" (mesh.tensor={gang.together} keeps {gang.together} workers on one node)"


def _amount(name: str, number: float) -> str:
    return show_bytes(number) if name == "memory" else count(number, RESOURCES[name])


def _labels(gang: Gang) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(gang.labels.items()))
