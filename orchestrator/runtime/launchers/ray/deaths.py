"""Ray's account of processes that died, in one line for people; and whether those that were killed are gone."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from orchestrator import paths
from orchestrator.runtime.launchers.ray import node_watch
from orchestrator.runtime.launchers.ray.slots import Member

LOOK_S = 0.02
TAIL_BYTES = 64 * 1024
DUMP = re.compile(r"\s|$|Thread 0x|Current thread|Extension modules|Stack \(|<|\.\.\.")
"""How the lines begin that Python writes after `Fatal Python error`."""


def describe(dead: Mapping[int, Exception], nodes: Mapping[int, str], root: str) -> str:
    """What happened to the workers that died: `dead` by rank; names of their nodes, where these are known."""
    told = {rank: _cause(error, rank, root) for rank, error in sorted(dead.items())}
    causes = dict.fromkeys(told.values())
    return "; ".join(_sentence([rank for rank in told if told[rank] == cause], cause, nodes) for cause in causes)


def is_loss(error: Exception) -> bool:
    """Whether a process died, rather than refused to begin with an exception."""
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError) and not error.actor_init_failed


def _sentence(ranks: Sequence[int], cause: str, nodes: Mapping[int, str]) -> str:
    where = ", ".join(dict.fromkeys(nodes[rank] for rank in ranks if rank in nodes))
    who = f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
    return f"{who} on {where} {cause}" if where else f"{who} {cause}"


def _cause(error: Exception, rank: int, root: str) -> str:
    text = str(error)
    if not is_loss(error):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"could not begin: {lines[-1] if lines else type(error).__name__}"
    code = re.search(r"exit code (-?\d+)", text)
    if "its node has died" in text or "node was terminated" in text:
        return "went away with the node"
    if "running low on memory" in text or "OutOfMemory" in type(error).__name__:
        return "got killed by Ray, for the node ran out of memory"
    if "SIGTERM" in text:
        return "got SIGTERM"
    if code:
        return f"ended with exit code {code[1]}"
    if "connection error" in text:
        crash = last_crash(root, rank)
        return f"crashed: {crash}" if crash else "died without a word, as when the system kills it for want of memory"
    if "unavailable" in text:
        return "cannot be reached any more"
    return f"died: {text.strip().splitlines()[-1]}"


def last_crash(root: str, rank: int) -> str:
    """The crash that a worker's log ends with; Python writes one down for every fatal signal but SIGKILL."""
    log = Path(root) / paths.worker_log(rank)
    if paths.is_url(root) or not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith("Fatal Python error: "):
            return lines[number].removeprefix("Fatal Python error: ")
        if not DUMP.match(lines[number]):
            return ""
    return ""


def wait_until_gone(members: Sequence[Member], timeout_s: float) -> list[Member]:
    """Wait for processes that were killed, by what their nodes say of them; returns those that may still live.

    A node says so when a process takes its leave, a moment before its end: on this host the end itself is waited for.
    Of a node that is gone or cut off nothing more will be heard, so nothing is waited for.
    """
    import ray
    from ray._private import state

    deadline = time.monotonic() + timeout_s
    left = list(members)
    while True:
        alive = state.workers()
        left = [member for member in left if member.worker in alive or runs_here(member)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(LOOK_S)
        concerned = {member.node for member in left}
        nodes = [node for node in ray.nodes() if node["NodeID"] in concerned and node["Alive"]]
        if not any(node_watch.opens(node) for node in nodes):
            return left


def runs_here(member: Member) -> bool:
    """Whether it is a process of this host that has not ended; other hosts have other processes of the same number."""
    try:
        process = psutil.Process(member.pid)
        return process.create_time() == member.born and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
