"""What `cluster check` makes of what the nodes told, and the small parts it measures with."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from orchestrator.cluster.check import check, link, ray_probe
from orchestrator.cluster.check.check import Measured, examine
from orchestrator.cluster.nodes import network

GIB = 2**30
FAST = {"there": {"latency": 1e-4, "bandwidth": 1e9}, "back": {"latency": 2e-4, "bandwidth": 9e8}}


def node(name: str, **changes: Any) -> dict[str, Any]:
    versions = {"Python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0", "our code": "abc"}
    disk = {"name": "Ray's temporary folder", "path": "/tmp", "free": 50 * GIB, "total": 100 * GIB}
    told = {"silent": "", "clock": 0.0, "storage": None, "interface": "eth0", "disks": [disk], "data": None}
    return {"name": name, "address": f"10.0.0.{name[1:]}", "versions": versions, **told, **changes}


def pair(first: str, second: str, speed: float | None = None, **ways: Any) -> dict[str, Any]:
    told = FAST if speed is None else {way: {"latency": 1e-4, "bandwidth": speed} for way in ("there", "back")}
    return {"nodes": [first, second], **told, **ways}


def measured(*nodes: dict[str, Any], **changes: Any) -> Measured:
    names = [told["name"] for told in nodes]
    told: dict[str, Any] = {
        "address": "10.0.0.1:6379",
        "here": names[0],
        "data": None,
        "storage": None,
        "nodes": list(nodes),
        "lost": [],
        "pairs": [pair(first, second) for first, second in combinations(names, 2)],
        "all_reduce": {"failed": {}, "nodes": len(nodes), "bytes": 2**20, "seconds": 0.1},
    }
    return Measured(**{**told, **changes})


def told(subject: Measured) -> list[tuple[str, str]]:
    """Level and text of what was found; every finding says what to do."""
    findings = examine(subject)
    assert all(finding.mend for finding in findings)
    return [(finding.level.value, finding.found) for finding in findings]


def test_nothing_to_say_of_a_healthy_cluster() -> None:
    assert told(measured(node("h1"), node("h2"), node("h3"))) == []
    assert told(measured(node("h1"))) == []


def test_the_odd_version_is_named_and_not_the_usual_one() -> None:
    odd = node("h2", versions={**node("h2")["versions"], "torch": "2.12.0", "our code": "xyz"})
    assert told(measured(node("h1"), odd, node("h3"))) == [
        ("problem", "torch is 2.13.0, but 2.12.0 on h2"),
        ("problem", "our code is abc, but xyz on h2"),
    ]


def test_of_two_versions_the_one_here_is_taken_for_right() -> None:
    without = {name: version for name, version in node("h2")["versions"].items() if name != "torch"}
    assert told(measured(node("h1"), node("h2", versions=without))) == [
        ("problem", "torch is 2.13.0, but missing on h2")
    ]


def test_drivers_may_differ() -> None:
    nodes = [node(name, versions={**node(name)["versions"], "NVIDIA driver": name}) for name in ("h1", "h2")]
    assert told(measured(*nodes)) == [("warning", "NVIDIA driver is h1, but h2 on h2")]


@pytest.mark.parametrize(("offset", "found"), [(5.2, "5.2 s ahead of"), (-3.0, "3.0 s behind")])
def test_clocks(offset: float, found: str) -> None:
    subject = measured(node("h1"), node("h2", clock=offset), node("h3", clock=0.3))
    assert told(subject) == [("problem", f"the clock of h2 is {found} that of h1")]


def test_absent_nodes() -> None:
    silent = {"name": "h2", "address": "10.0.0.2", "silent": "no answer within 45 s", "clock": None, "storage": None}
    subject = measured(
        node("h1"), silent, lost=[{"name": "h3", "address": "10.0.0.3", "why": "health check failed "}], pairs=[]
    )
    assert told(subject) == [
        ("problem", "h3 (10.0.0.3) has left the cluster: health check failed"),
        ("problem", "h2 (10.0.0.2) does not work: no answer within 45 s"),
    ]
    assert examine(subject)[0].mend == "Start Ray there again: ray start --address=10.0.0.1:6379."


@pytest.mark.parametrize(("free", "total"), [(0.5 * GIB, 10 * GIB), (4 * GIB, 100 * GIB)])
def test_full_disks(free: float, total: float) -> None:
    disk = {"name": "storage", "path": "/runs", "free": free, "total": total}
    ((level, found),) = told(measured(node("h1", disks=[disk])))
    assert level == "problem"
    assert found.startswith("storage of h1, /runs, has only ")


def test_data_and_storage_in_one_line_for_the_same_trouble() -> None:
    missing, gone = {"failed": "No such file or directory"}, {"failed": "missing"}
    subject = measured(
        node("h1", data={"entries": 3}, storage={}),
        node("h2", data=missing, storage=gone),
        node("h3", data=missing, storage=gone),
        node("h4", data={"entries": 2}, storage={"failed": "another folder"}),
        node("h5", data={"entries": 3}, storage={"failed": "Read-only file system"}),
        data="/data",
        storage="/runs",
    )
    assert told(subject) == [
        ("problem", "h2, h3 cannot read /data: No such file or directory"),
        ("warning", "/data is not the same everywhere: 3 entries on h1, 2 entries on h4, 3 entries on h5"),
        ("problem", "/runs is not there on h2, h3"),
        ("problem", "/runs on h4 is not the same folder as on h1"),
        ("problem", "h5 cannot write /runs: Read-only file system"),
    ]


def test_an_address_that_no_interface_holds() -> None:
    subject = measured(node("h1"), node("h2", interface=None))
    assert told(subject) == [("warning", "no interface of h2 holds its address in Ray, 10.0.0.2")]


SILENT = {"failed": "connect", "why": "timed out"}


@pytest.mark.parametrize(
    ("ways", "found"),
    [
        ({"there": SILENT, "back": SILENT}, "h1 and h2 do not reach each other: timed out"),
        ({"there": SILENT}, "h1 does not reach h2, though h2 reaches h1: timed out"),
        ({"back": SILENT}, "h2 does not reach h1, though h1 reaches h2: timed out"),
        (
            {"there": {"failed": "large", "why": "timed out"}},
            "small messages pass between h1 and h2, large ones do not: timed out",
        ),
    ],
)
def test_pairs_that_fail(ways: dict[str, Any], found: str) -> None:
    assert told(measured(node("h1"), node("h2"), pairs=[pair("h1", "h2", **ways)])) == [("problem", found)]


def test_slow_nodes_and_slow_pairs() -> None:
    slow_node = [pair("h1", "h2", 1e9), pair("h1", "h3", 2e7), pair("h2", "h3", 2e7)]
    nodes = [node(name) for name in ("h1", "h2", "h3")]
    assert told(measured(*nodes, pairs=slow_node)) == [
        ("warning", "h3 is slow with every other node: 20.0 MB/s, where others have 1.00 GB/s")
    ]
    slow_pair = [pair("h1", "h2", 1e9), pair("h1", "h3", 1e9), pair("h2", "h3", 2e7)]
    assert told(measured(*nodes, pairs=slow_pair)) == [
        ("warning", "h2 and h3 are slow with each other: 20.0 MB/s, where others have 1.00 GB/s")
    ]
    assert told(measured(*nodes[:2], pairs=[pair("h1", "h2", 1e6)])) == []


def test_a_sum_that_fails() -> None:
    subject = measured(node("h1"), node("h2"), all_reduce={"failed": {"h2": "Unable to find address for: eth7"}})
    assert told(subject) == [
        (
            "problem",
            "the nodes reach each other, but a sum over all of them failed: h2: Unable to find address for: eth7",
        )
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
def test_every_pair_meets_once_and_nobody_twice_at_a_time(count: int) -> None:
    nodes = [f"h{number}" for number in range(count)]
    rounds = list(ray_probe.rounds(nodes))
    assert Counter(pair for pairs in rounds for pair in pairs) == Counter(combinations(nodes, 2))
    for pairs in rounds:
        busy = [name for pair in pairs for name in pair]
        assert len(busy) == len(set(busy))


def test_links_on_this_host() -> None:
    listener = link.Listener("127.0.0.1", b"k" * 16)
    found = link.measure("127.0.0.1", listener.port, b"k" * 16)
    assert 0 < found["latency"] < 1
    assert found["bandwidth"] > 1e6
    stranger = link.measure("127.0.0.1", listener.port, b"x" * 16)
    assert stranger["failed"] == "small"
    assert link.measure("127.0.0.1", 1, b"k" * 16) == {"failed": "connect", "why": "Connection refused"}


def test_the_interface_that_holds_an_address() -> None:
    interfaces = {"lo": ["127.0.0.1", "::1"], "eth1": ["10.0.0.7", "fe80::1"], "docker0": ["172.17.0.1"]}
    assert network.interface_of("10.0.0.7", interfaces) == "eth1"
    assert network.interface_of("fe80:0::1", interfaces) == "eth1"
    assert network.interface_of("192.0.2.1", interfaces) is None
    assert network.interface_of("127.0.0.1") == "lo"


def test_what_a_person_set_stays() -> None:
    env = {network.NCCL: "ib0"}
    network.set_interface(env, "eth1")
    assert env == {network.NCCL: "ib0", network.GLOO: "eth1"}
    network.set_interface(nothing := {}, None)
    assert nothing == {}
    network.set_interface(nothing, "eth1")
    assert nothing == {network.GLOO: "eth1", network.NCCL: "=eth1"}


def test_amounts_for_people() -> None:
    assert [check.rate(1.5e9), check.rate(2e6)] == ["1.50 GB/s", "2.0 MB/s"]
