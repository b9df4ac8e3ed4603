"""Which machines a cluster's head has seen, and what it says of them: Ray's own ledger, read without joining it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

RPC_TIMEOUT_S = 10.0
POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One machine, as the head knows it."""

    address: str
    alive: bool
    head: bool
    node_id: str
    cpus: float
    gpus: float
    memory: int
    reason: str = ""
    """Why it is not alive."""


def members(address: str) -> list[Member]:
    """The machines; of one that was there several times, its newest life."""
    from ray import _raylet

    compiled: Any = _raylet  # its types tell of a part only

    newest: dict[str, tuple[int, Member]] = {}
    for node in compiled.GcsClient(address=address).get_all_node_info(timeout=RPC_TIMEOUT_S).values():
        member = _member(node)
        begun = int(node.start_time_ms)
        if member.address not in newest or begun >= newest[member.address][0]:
            newest[member.address] = (begun, member)
    return [member for _, member in sorted(newest.values(), key=lambda pair: (not pair[1].head, pair[1].address))]


def _member(node: Any) -> Member:
    has = node.resources_total
    return Member(
        address=node.node_manager_address,
        alive=node.state == type(node).ALIVE,
        head=bool(node.is_head_node),
        node_id=node.node_id.hex(),
        cpus=float(has.get("CPU", 0)),
        gpus=float(has.get("GPU", 0)),
        memory=int(has.get("memory", 0)),
        reason=str(node.death_info.reason_message),
    )


def wait(address: str, expected: list[str], timeout_s: float) -> list[Member]:
    """The machines, as soon as all that are expected are alive, or when the time is over."""
    end = time.monotonic() + timeout_s
    while True:
        found = members(address)
        if set(expected) <= {member.address for member in found if member.alive} or time.monotonic() > end:
            return found
        time.sleep(POLL_S)


def to_dicts(found: list[Member]) -> list[dict[str, Any]]:
    """As plain data."""
    return [asdict(member) for member in found]
