"""Who is who in a gang: ranks, and the GPUs each worker sees, from what its members say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """What one process of a gang says of itself."""

    node: str
    """Ray's id of its node."""
    address: str
    """The node's address."""
    pid: int
    born: float
    """When the process began, by the clock of its host."""
    worker: str
    """Ray's id of the process."""
    gpus: tuple[str, ...] = ()
    """The GPUs that Ray gave it, by the names that CUDA_VISIBLE_DEVICES takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """One worker's place in the gang."""

    rank: int
    world_size: int
    local_rank: int
    """Number of this worker among those of its node."""
    local_world_size: int
    node_rank: int
    nodes: int
    visible: tuple[str, ...] = ()
    """The GPUs this worker is to see; the one at `device` is its first own."""
    device: int = 0

    def environment(self, address: str, port: int) -> dict[str, str]:
        """The variables that torchrun sets. DeepSpeed takes LOCAL_RANK for the number of the GPU it shall use."""
        ranks = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_RANK": self.device if self.visible else self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world_size,
            "GROUP_RANK": self.node_rank,
            "NODE_RANK": self.node_rank,
            "GROUP_WORLD_SIZE": self.nodes,
            "MASTER_PORT": port,
        }
        return {**{name: str(value) for name, value in ranks.items()}, "MASTER_ADDR": address}


def arrange(members: Sequence[Member]) -> list[Seat]:
    """A seat for each member, in their order.

    The workers of a node are neighbours, so that groups of tensor parallelism stay on it; nodes follow each other as
    the members do; on a node, ranks go up with the numbers of the GPUs.
    """
    nodes = list(dict.fromkeys(member.node for member in members))
    seats: dict[int, Seat] = {}
    for node_rank, node in enumerate(nodes):
        local = [number for number, member in enumerate(members) if member.node == node]
        local.sort(key=lambda number: ([(len(gpu), gpu) for gpu in members[number].gpus], number))
        gpus = [members[number].gpus for number in local]
        for local_rank, number in enumerate(local):
            visible, device = _visible(gpus, local_rank)
            seats[number] = Seat(
                rank=len(seats),
                world_size=len(members),
                local_rank=local_rank,
                local_world_size=len(local),
                node_rank=node_rank,
                nodes=len(nodes),
                visible=visible,
                device=device,
            )
    return [seats[number] for number in range(len(members))]


def _visible(gpus: Sequence[tuple[str, ...]], local_rank: int) -> tuple[tuple[str, ...], int]:
    """The GPUs that a worker sees, and which of them is its own.

    All of a node's workers see the GPUs of all, so that these can reach each other directly; the first GPU of each
    worker comes first, so that its number is the local rank. Workers that share a GPU see only that.
    """
    everybody = [gpu for own in gpus for gpu in own]
    if len(set(everybody)) < len(everybody):
        return gpus[local_rank], 0
    firsts = [own[0] for own in gpus if own]
    others = [gpu for gpu in everybody if gpu not in firsts]
    return (*firsts, *others), local_rank if everybody else 0
