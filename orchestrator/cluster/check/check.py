"""Whether the nodes of a cluster can train together: measured by a child process (check_ray), judged here."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import paths
from orchestrator.cluster.check import node_probe
from orchestrator.cluster.doctor.doctor import GIB, INSTALL, Finding, Level
from orchestrator.cluster.node.address import HINT, check_answers
from orchestrator.errors import MachineError
from orchestrator.foundation.environment import TELEMETRY_OFF

LIMIT_S = 900.0
CLOCK_S = 1.0
"""Nodes further apart than this mix up whose event came first, and may refuse each other's certificates."""
LEAST_FREE = GIB
FULL = 0.95
"""Where Ray stops writing objects to a disk, and says so only in its own log."""
SLOW = 4.0
"""So many times slower than others: worth a warning."""
WARN_ONLY = frozenset({"NVIDIA driver", "numpy"})
"""Versions that may differ without keeping workers from working together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What the nodes told and measured, as plain data."""

    address: str
    """Ray's."""
    here: str
    """The node that the check ran on."""
    data: str | None
    storage: str | None
    """What was looked for, as an absolute path or URL; None: nothing."""
    nodes: list[dict[str, Any]]
    lost: list[dict[str, str]]
    pairs: list[dict[str, Any]]
    all_reduce: dict[str, Any] | None
    """None: not tried."""


def measure(address: str, *, data: str | None = None, storage: str | None = None) -> Measured:
    """Ask all nodes of the cluster at an address; takes about half a minute."""
    check_answers(address)
    request = {
        "address": address,
        "data": paths.absolute(data) if data else None,
        "storage": paths.absolute(storage) if storage else None,
    }
    command = [sys.executable, "-m", "orchestrator.cluster.check.ray_probe", json.dumps(request)]
    environment = {**os.environ, **TELEMETRY_OFF}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"The cluster at {address} could not be checked within {LIMIT_S:g} s.", "Look at it with: ray status."
        ) from error
    try:
        answer = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except json.JSONDecodeError as error:
        raise RuntimeError(f"the check ended with exit code {done.returncode}:\n{done.stderr}") from error
    if "error" in answer:
        told = answer["error"].partition(". ")[0].rstrip(".")
        where = "on this machine" if address == "auto" else f"at {address}"
        raise MachineError(f"Ray {where} cannot be reached: {told}.", HINT)
    return Measured(data=request["data"], storage=request["storage"], **answer)


def examine(measured: Measured) -> list[Finding]:
    """Everything that is wrong or worth knowing; empty where all is well."""
    return [
        *_absent(measured),
        *_versions(measured.nodes),
        *_clocks(measured),
        *_interfaces(measured.nodes),
        *_disks(measured.nodes),
        *_data(measured),
        *_storage(measured),
        *_pairs(measured.pairs),
        *_reduced(measured.all_reduce),
    ]


def _absent(measured: Measured) -> Iterator[Finding]:
    for node in measured.lost:
        why = f": {node['why'].strip().rstrip('.')}" if node["why"].strip() else ""
        yield _problem(
            "node",
            f"{node['name']} ({node['address']}) has left the cluster{why}",
            f"Start Ray there again: ray start --address={measured.address}.",
        )
    for node in measured.nodes:
        if node["silent"]:
            yield _problem(
                "node",
                f"{node['name']} ({node['address']}) does not work: {node['silent']}",
                "See whether it is up and reached (ping, ssh), then at Ray's logs there: /tmp/ray/session_latest/logs.",
            )


def _versions(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    told = {node["name"]: node["versions"] for node in nodes if "versions" in node}
    for what in dict.fromkeys(name for versions in told.values() for name in versions):
        found = {name: versions.get(what, "missing") for name, versions in told.items()}
        if len(set(found.values())) == 1:
            continue
        # The most frequent is taken for right; of equals, the first, which is that of the node we are on.
        right = Counter(found.values()).most_common(1)[0][0]
        others = [f"{version} on {name}" for name, version in found.items() if version != right]
        level = Level.warning if what in WARN_ONLY else Level.problem
        yield Finding(
            name="versions",
            level=level,
            found=f"{what} is {right}, but {', '.join(others)}",
            mend=_same_version(what, right, [name for name, version in found.items() if version != right]),
        )


def _same_version(what: str, right: str, names: list[str]) -> str:
    where = f"on {', '.join(names)}"
    if what in ("Python", "NVIDIA driver"):
        return f"Install {what} {right} {where}."
    if what == "our code":
        return f"Install the same orchestrator {where} as on the others, and start Ray there again."
    return f"{where[:1].upper()}{where[1:]}: {INSTALL}"


def _clocks(measured: Measured) -> Iterator[Finding]:
    for node in measured.nodes:
        offset = node.get("clock")
        if offset is not None and abs(offset) > CLOCK_S:
            way = "ahead of" if offset > 0 else "behind"
            yield _problem(
                "clock",
                f"the clock of {node['name']} is {abs(offset):.1f} s {way} that of {measured.here}",
                "Set both by the network: apt-get install chrony.",
            )


def _interfaces(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    for node in nodes:
        if "interface" in node and node["interface"] is None:
            yield Finding(
                name="interface",
                level=Level.warning,
                found=f"no interface of {node['name']} holds its address in Ray, {node['address']}",
                mend="Start Ray there with --node-ip-address of an interface, or set GLOO_SOCKET_IFNAME before.",
            )


def _disks(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    for node in nodes:
        for disk in node.get("disks", ()):
            if disk["free"] < LEAST_FREE or disk["free"] < (1 - FULL) * disk["total"]:
                yield _problem(
                    "disk",
                    f"{disk['name']} of {node['name']}, {disk['path']}, has only {gib(disk['free'])} free"
                    f" of {gib(disk['total'])}",
                    "Make room there: Ray stops keeping objects on a disk that is 95% full.",
                )


def _data(measured: Measured) -> Iterator[Finding]:
    told = {node["name"]: node["data"] for node in measured.nodes if node.get("data")}
    for why, names in _by_failure(told).items():
        mend = "Give a path that is there." if len(names) == len(told) else "Mount or copy it there, at the same path."
        yield _problem("data", f"{names} cannot read {measured.data}: {why}", mend)
    amounts = {name: data for name, data in told.items() if "failed" not in data}
    if len({json.dumps(data) for data in amounts.values()}) > 1:
        each = ", ".join(f"{_amount(data)} on {name}" for name, data in amounts.items())
        what = f"{measured.data} is not the same everywhere: {each}"
        yield Finding(name="data", level=Level.warning, found=what, mend="Copy it anew where it is old.")


def _amount(data: Mapping[str, int]) -> str:
    return " ".join(f"{count} {unit}" for unit, count in data.items())


def _storage(measured: Measured) -> Iterator[Finding]:
    told = {node["name"]: node["storage"] for node in measured.nodes if node.get("storage") is not None}
    for why, names in _by_failure(told).items():
        if why == node_probe.MISSING:
            what = f"{measured.storage} is not there on {names}"
        elif why == node_probe.ANOTHER:
            what = f"{measured.storage} on {names} is not the same folder as on {measured.here}"
        else:
            what = f"{names} cannot write {measured.storage}: {why}"
        yield _problem("storage", what, "Set storage.path to what all nodes share and may write (NFS, s3://...).")


def _by_failure(told: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The names of nodes, by what failed on them: one line for all that have the same trouble."""
    found: dict[str, list[str]] = {}
    for name, answer in told.items():
        if "failed" in answer:
            found.setdefault(answer["failed"], []).append(name)
    return {why: ", ".join(names) for why, names in found.items()}


REACH_MEND = {
    "connect": "Let the nodes reach each other at all ports: gloo and NCCL listen at ports that the system picks.",
    "small": "Look for a firewall or proxy between them that takes connections and passes nothing on.",
    "large": "Give all interfaces on the way the same MTU (ip link): large packets are lost between them.",
    "ask": "Check again; if it stays so, look at the logs of Ray on both.",
}


def _pairs(pairs: list[dict[str, Any]]) -> Iterator[Finding]:
    for pair in pairs:
        yield from _unreached(pair)
    yield from _slow(pairs)


def _slow(pairs: list[dict[str, Any]]) -> Iterator[Finding]:
    """Nodes that are slow with all others, and pairs of which each is quick with somebody else."""
    speeds = {tuple(pair["nodes"]): bandwidth(pair) for pair in pairs if reached(pair)}
    names = {name for pair in speeds for name in pair}
    best = {name: max(speed for pair, speed in speeds.items() if name in pair) for name in sorted(names)}
    usual = statistics.median(best.values()) if best else 0.0
    slow = {f"{name} is slow with every other node": (best[name], usual) for name in best}
    slow |= {
        f"{first} and {second} are slow with each other": (speed, min(best[first], best[second]))
        for (first, second), speed in speeds.items()
    }
    for what, (speed, other) in slow.items():
        if speed * SLOW < other:
            yield Finding(
                name="pair",
                level=Level.warning,
                found=f"{what}: {rate(speed)}, where others have {rate(other)}",
                mend="Look at cables, ports and who else uses them: the slowest sets the pace of all.",
            )


def _unreached(pair: Mapping[str, Any]) -> Iterator[Finding]:
    first, second = pair["nodes"]
    there, back = pair["there"], pair["back"]
    ways = [(way, names) for way, names in ((there, (first, second)), (back, (second, first))) if "failed" in way]
    if not ways:
        return
    way, (source, target) = ways[0]
    if way["failed"] == "large":
        what = f"small messages pass between {first} and {second}, large ones do not"
    elif len(ways) == 2:
        what = f"{first} and {second} do not reach each other"
    else:
        what = f"{source} does not reach {target}, though {target} reaches {source}"
    yield _problem("pair", f"{what}: {way['why']}", REACH_MEND[way["failed"]])


def _reduced(told: Mapping[str, Any] | None) -> Iterator[Finding]:
    if told and told["failed"]:
        each = "; ".join(f"{name}: {why}" for name, why in told["failed"].items())
        yield _problem(
            "all-reduce",
            f"the nodes reach each other, but a sum over all of them failed: {each}",
            "Look whether GLOO_SOCKET_IFNAME is set where Ray was started, and names the right interface.",
        )


def reached(pair: Mapping[str, Any]) -> bool:
    """Whether both nodes of a pair reach each other."""
    return "failed" not in pair["there"] and "failed" not in pair["back"]


def bandwidth(pair: Mapping[str, Any]) -> float:
    """Bytes per second between two nodes, in the slower direction."""
    return float(min(pair["there"]["bandwidth"], pair["back"]["bandwidth"]))


def latency(pair: Mapping[str, Any]) -> float:
    """Seconds for a small message there and back."""
    return float(max(pair["there"]["latency"], pair["back"]["latency"]))


def rate(speed: float) -> str:
    """Bytes per second for people."""
    return f"{speed / 1e9:.2f} GB/s" if speed >= 1e9 else f"{speed / 1e6:.1f} MB/s"


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB"


def _problem(name: str, found: str, mend: str) -> Finding:
    return Finding(name=name, level=Level.problem, found=found, mend=mend)
