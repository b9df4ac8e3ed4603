"""The child process of `cluster check`: joins the cluster, puts a probe on every node, and has them measure.

Run as `python -m orchestrator.cluster.check.ray_probe REQUEST` (JSON); the last line of its output is what was
measured, or {"error": "..."}. No step waits longer than its limit, so that a node that is cut off is found and not
waited for.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

from orchestrator.cluster.check import link, node_probe
from orchestrator.cluster.nodes import network, ray_nodes

START_S = 45.0
"""For a probe to start: a node may have to start Python and import Ray while it is busy."""
ANSWER_S = 20.0
PAIR_S = link.CONNECT_S + link.MESSAGES_S + 10.0
GANG_S = 60.0
"""For the all-reduce: imports torch on every node first."""
CLOCK_READINGS = 7
LATELY_S = 3600.0
UNEXPECTED = 2
"""Ray's number (NodeDeathInfo) for a node that was neither stopped nor taken away by an autoscaler."""
NO_ANSWER = "no answer within {:g} s"


class Gang:
    """The probes, by the ids of their nodes. One that fails or does not answer in time is out, with the reason kept."""

    def __init__(self, nodes: list[str], out: dict[str, str], key: bytes) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = ray.remote(node_probe.Probe)
        self.out = out
        self._probes = {
            node: probe.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False), max_concurrency=4
            ).remote(key)
            for node in nodes
            if node not in out
        }

    @property
    def nodes(self) -> list[str]:
        """Those that take part."""
        return [node for node in self._probes if node not in self.out]

    def ask_all(self, method: str, *args: Any, limit: float) -> dict[str, Any]:
        """The same of every node, at once; who does not answer is out."""
        answers = self.ask(dict.fromkeys(self.nodes, (method, *args)), limit)
        self.out |= {node: answer.why for node, answer in answers.items() if isinstance(answer, Silence)}
        return {node: answer for node, answer in answers.items() if node not in self.out}

    def ask(self, calls: Mapping[str, tuple[Any, ...]], limit: float) -> dict[str, Any]:
        """Something of some nodes, at once: answers by node, or a Silence."""
        import ray

        asked = {node: getattr(self._probes[node], call[0]).remote(*call[1:]) for node, call in calls.items()}
        done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=limit) if asked else ([], [])
        return {node: _answer(reference) if reference in done else Silence(limit) for node, reference in asked.items()}

    def end(self) -> None:
        """Let the probes go."""
        import ray

        for probe in self._probes.values():
            ray.kill(probe)


class Silence:
    """No answer, and why."""

    def __init__(self, limit: float = 0, why: str = "") -> None:
        self.why = why or NO_ANSWER.format(limit)


def _answer(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return Silence(why=node_probe.reason(getattr(error, "cause", None) or error))


def check(request: Mapping[str, Any]) -> dict[str, Any]:
    """All measurements, in a process that has joined the cluster."""
    import ray

    for module in (node_probe, link, network):
        ray.cloudpickle.register_pickle_by_value(module)
    listed = ray.nodes()
    alive = {node["NodeID"]: node for node in listed if node["Alive"]}
    names = ray_nodes.names(list(alive.values()))
    here = ray.get_runtime_context().get_node_id()
    order = sorted(alive, key=lambda node: (node != here, names[node]))
    gang = Gang(order, unreachable(alive), secrets.token_bytes(16))
    try:
        facts = gang.ask_all("facts", request["data"], request["storage"], limit=START_S)
        clocks = clock_offsets(gang)
        storage = meet_in_storage(gang, request["storage"]) if request["storage"] else {}
        pairs = measure_pairs(gang, facts)
        reduced = all_reduce(gang, facts, pairs)
    finally:
        gang.end()
    return {
        "address": ray.get_runtime_context().gcs_address,
        "here": names[here],
        "nodes": [
            {
                "name": names[node],
                "address": alive[node]["NodeManagerAddress"],
                "silent": gang.out.get(node, ""),
                "clock": clocks.get(node),
                "storage": storage.get(node),
                **{name: fact for name, fact in facts.get(node, {}).items() if name != "port"},
            }
            for node in order
        ],
        "lost": lost(listed),
        "pairs": [{**pair, "nodes": [names[node] for node in pair["nodes"]]} for pair in pairs],
        "all_reduce": reduced and {**reduced, "failed": {names[node]: why for node, why in reduced["failed"].items()}},
    }


def unreachable(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Nodes whose Ray does not take connections from here, and why. Ray itself takes its time to notice."""

    def knock(node: Mapping[str, Any]) -> str:
        try:
            where = (node["NodeManagerAddress"], node["NodeManagerPort"])
            socket.create_connection(where, timeout=link.CONNECT_S).close()
        except OSError as error:
            return f"its Ray is not reached from here at port {where[1]}: {node_probe.reason(error)}"
        return ""

    with ThreadPoolExecutor(max_workers=32) as pool:
        told = dict(zip(nodes, pool.map(knock, nodes.values()), strict=True))
    return {node: why for node, why in told.items() if why}


def lost(listed: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Nodes that ended unexpectedly of late and have not come back; Ray lists the dead for ever."""
    from ray._private.worker import global_worker

    told = global_worker.gcs_client.get_all_node_info(timeout=ANSWER_S)
    late = {id.hex() for id, info in told.items() if time.time() - info.end_time_ms / 1e3 < LATELY_S}
    back = {node["NodeManagerAddress"] for node in listed if node["Alive"]}
    gone = {
        node["NodeManagerAddress"]: node
        for node in listed
        if node["NodeID"] in late and node["DeathReason"] == UNEXPECTED and node["NodeManagerAddress"] not in back
    }
    return [
        {
            "name": ray_nodes.names([node])[node["NodeID"]],
            "address": address,
            "why": node.get("DeathReasonMessage") or "",
        }
        for address, node in gone.items()
    ]


def clock_offsets(gang: Gang) -> dict[str, float]:
    """How far each node's clock is ahead of this host's, from the reading that took the shortest time."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(CLOCK_READINGS):
        for node in gang.nodes:
            before = time.time()
            answer = gang.ask({node: ("now",)}, ANSWER_S)[node]
            after = time.time()
            if isinstance(answer, Silence):
                gang.out[node] = answer.why
                continue
            took = after - before
            best[node] = min(best.get(node, (took, 0.0)), (took, answer - (before + after) / 2))
    return {node: offset for node, (_, offset) in best.items() if node not in gang.out}


def meet_in_storage(gang: Gang, storage: str) -> dict[str, dict[str, Any]]:
    """Whether all nodes see the same storage and can write it: each leaves a mark, and reads the first one's."""
    if not gang.nodes:
        return {}
    first, *others = gang.nodes
    run = secrets.token_hex(4)
    marks = {node: f".check-{run}-{number}" for number, node in enumerate(gang.nodes)}
    opened = gang.ask({first: ("open_storage", storage, marks[first])}, ANSWER_S)[first]
    found = {first: _as_failure(opened)}
    if "failed" in found[first]:
        return found
    try:
        calls = {node: ("meet_in_storage", storage, marks[first], marks[node]) for node in others}
        found |= {node: _as_failure(answer) for node, answer in gang.ask(calls, ANSWER_S).items()}
        written = {marks[node]: node for node in others if "failed" not in found[node]}
        unseen = gang.ask({first: ("unseen", storage, list(written))}, ANSWER_S)[first]
        for mark in unseen if isinstance(unseen, list) else ():
            found[written[mark]] = {"failed": node_probe.ANOTHER}
    finally:
        removals: dict[str, tuple[Any, ...]] = {node: ("remove", storage, [marks[node]], []) for node in others}
        gang.ask(removals, ANSWER_S)
        gang.ask({first: ("remove", storage, [marks[first]], opened["made"])}, ANSWER_S)
    return found


def _as_failure(answer: Any) -> dict[str, Any]:
    return {"failed": answer.why} if isinstance(answer, Silence) else answer


def measure_pairs(gang: Gang, facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every pair of nodes, both ways; many pairs at once, but no node in two of them."""
    found = []
    for pairs in rounds(gang.nodes):
        there = _reach(gang, facts, pairs)
        back = _reach(gang, facts, [(second, first) for first, second in pairs])
        for first, second in pairs:
            found.append({"nodes": [first, second], "there": there[first], "back": back[second]})
    return found


def _reach(gang: Gang, facts: Mapping[str, Mapping[str, Any]], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    calls = {first: ("reach", facts[second]["address"], facts[second]["port"]) for first, second in pairs}
    answers = gang.ask(calls, PAIR_S)
    return {
        node: {"failed": "ask", "why": answer.why} if isinstance(answer, Silence) else answer
        for node, answer in answers.items()
    }


def rounds(nodes: list[str]) -> Iterator[list[tuple[str, str]]]:
    """All pairs, in rounds in which each node is in one pair at most (as teams of a league meet)."""
    left = list(combinations(nodes, 2))
    while left:
        busy: set[str] = set()
        now = []
        for pair in left:
            if busy.isdisjoint(pair):
                busy.update(pair)
                now.append(pair)
        left = [pair for pair in left if pair not in now]
        yield now


def all_reduce(
    gang: Gang, facts: Mapping[str, Mapping[str, Any]], pairs: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """One sum over all nodes; not tried with nodes that do not reach each other, since it would only wait."""
    apart = [pair for pair in pairs if "failed" in pair["there"] or "failed" in pair["back"]]
    if len(gang.nodes) < 2 or apart:
        return None
    first = gang.nodes[0]
    port = gang.ask({first: ("free_port",)}, ANSWER_S)[first]
    if isinstance(port, Silence):
        return {"failed": {first: port.why}}
    host = facts[first]["address"]
    meeting = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    world = len(gang.nodes)
    calls = {node: ("all_reduce", rank, world, meeting, GANG_S / 2) for rank, node in enumerate(gang.nodes)}
    answers = {node: _as_failure(answer) for node, answer in gang.ask(calls, GANG_S).items()}
    failed = {node: answer["failed"] for node, answer in answers.items() if "failed" in answer}
    seconds = max((answer["seconds"] for answer in answers.values() if "seconds" in answer), default=0.0)
    return {"failed": failed, "nodes": world, "bytes": node_probe.REDUCED, "seconds": seconds}


def main(request: str) -> int:
    """Print what was measured."""
    import ray

    asked = json.loads(request)
    try:
        ray.init(address=asked["address"], logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        print(json.dumps({"error": node_probe.reason(error)}))
        return 1
    print(json.dumps(check(asked)))
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
