"""`orchestrator cluster check` on three hosts whose Ray was started by hand. The last tests end the third host."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import ROOT, Host, Hosts
from tests.cluster.ray_hosts import join, orchestrator, start_head

pytestmark = pytest.mark.timeout(240)
SITE = next(path for path in sys.path if path.endswith("site-packages"))
OFFSET = "/run/clock-offset"
OTHER_CLOCK = f"""
import pathlib, time
real = time.time
def shifted():
    try: return real() + float(pathlib.Path({OFFSET!r}).read_text())
    except OSError: return real()
time.time = shifted
"""
"""Run by every Python of a host when it starts: namespaces give no clock of its own to a host."""
LISTEN = """
import sys; from orchestrator.cluster.check.link import Listener
print(Listener(sys.argv[1], bytes(16)).port, flush=True); sys.stdin.read()
"""
MEASURE = """
import json, sys; from orchestrator.cluster.check.link import measure
print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), bytes(16))))
"""


@dataclass(frozen=True, kw_only=True)
class Trio:
    """Three hosts with Ray on them, and a folder that they share."""

    hosts: Hosts
    address: str
    shared: Path

    def check(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit code and answer of the check, called on the first host."""
        done = orchestrator(self.hosts.all[0], "cluster", "check", "--address", self.address, "--json", *options)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)

    def problems(self, *options: str) -> list[str]:
        """What is wrong, by the check."""
        code, told = self.check(*options)
        problems = [finding["found"] for finding in told["findings"] if finding["level"] == "problem"]
        assert code == (1 if problems else 0)
        assert all(finding["mend"] for finding in told["findings"])
        return problems


@pytest.fixture(scope="module")
def trio(allowed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    shared = tmp_path_factory.mktemp("shared")
    with Hosts(3, shared=[shared]) as hosts:
        h1, h2, h3 = hosts.all
        h3.file(f"{SITE}/other_clock.pth").write_text("import other_clock\n")
        h3.file(f"{SITE}/other_clock.py").write_text(OTHER_CLOCK)
        address = start_head(h1)
        for host in (h2, h3):
            join(host, address)
        yield Trio(hosts=hosts, address=address, shared=shared)


def test_a_healthy_cluster(trio: Trio) -> None:
    data, storage = trio.shared / "data", trio.shared / "new" / "runs"
    data.mkdir()
    code, told = trio.check("--data", str(data), "--storage", str(storage))
    assert (code, told["verdict"], told["findings"]) == (0, "ok", [])
    assert [node["name"] for node in told["nodes"]] == ["h1", "h2", "h3"]
    assert [(node["interface"], node["data"]) for node in told["nodes"]] == [("eth0", {"entries": 0})] * 3
    assert [pair["nodes"] for pair in told["pairs"]] == [["h1", "h2"], ["h1", "h3"], ["h2", "h3"]]
    for pair in told["pairs"]:
        for way in ("there", "back"):
            assert 0 < pair[way]["latency"] < 1
            assert pair[way]["bandwidth"] > 1e6
    assert told["all_reduce"]["nodes"] == 3
    assert told["all_reduce"]["seconds"] > 0
    # What the check wrote and made is gone.
    assert list(trio.shared.rglob("*")) == [data]


def test_each_trouble_is_one_line_that_names_the_node(trio: Trio) -> None:
    _, h2, h3 = trio.hosts.all
    data = trio.shared / "data.bin"
    data.write_bytes(b"123")
    with (
        parted(trio.hosts, h2, h3),
        changed(h2.file(metadata_of("torch")), "\nVersion: ", "\nVersion: 9"),
        changed(h3.file(ROOT / "orchestrator/paths.py"), "", "# another\n"),
        written(h3.file(OFFSET), "7.5"),
        full_disk(h2, "/tmp"),
        hidden(h3, trio.shared),
    ):
        done = orchestrator(
            *(trio.hosts.all[0], "cluster", "check", "--address", trio.address),
            *("--data", str(data), "--storage", str(trio.shared / "runs")),
        )
    problems = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert done.returncode == 1
    for words in (
        "torch is 2.",
        "on h2. -> On h2: pip install",
        "our code is",
        "on h3. -> Install the same orchestrator on h3",
        "the clock of h3 is 7.5 s ahead of that of h1. -> ",
        "Ray's temporary folder of h2, /tmp/ray, has only 0.",
        f"h3 cannot read {data}: No such file or directory. -> ",
        f"{trio.shared / 'runs'} is not there on h3. -> ",
        "h2 and h3 do not reach each other: timed out. -> ",
    ):
        assert [line for line in problems if words in line], f"{words}\n{done.stdout}"
    assert len(problems) == 7
    assert "7 to mend before training on this cluster." in done.stdout
    assert "No sum over all nodes" in done.stdout


def test_storage_that_is_there_but_not_shared_or_not_writable(trio: Trio) -> None:
    h2 = trio.hosts.all[1]
    for host in trio.hosts.all:
        host.file("/srv/runs").mkdir()
    assert trio.problems("--storage", "/srv/runs") == ["/srv/runs on h2, h3 is not the same folder as on h1"]
    assert [list(host.file("/srv/runs").iterdir()) for host in trio.hosts.all] == [[], [], []]
    h2.run(["mount", "--bind", "-o", "ro", trio.shared, trio.shared], check=True)
    try:
        problems = trio.problems("--storage", str(trio.shared))
    finally:
        h2.run(["umount", trio.shared], check=True)
    assert problems == [f"h2 cannot write {trio.shared}: Read-only file system"]


def test_large_packets_that_are_lost(trio: Trio) -> None:
    """Interfaces that believe in larger packets than the switch passes on, as with jumbo frames set up halfway."""
    h1, h2, _ = trio.hosts.all
    with h2.popen([sys.executable, "-c", LISTEN, h2.address], cwd=ROOT, stdin=-1, stdout=-1, text=True) as listener:
        assert listener.stdout
        measure = [sys.executable, "-c", MEASURE, h2.address, listener.stdout.readline().strip()]
        assert "bandwidth" in json.loads(h1.run(measure, cwd=ROOT).stdout)
        for host in (h1, h2):
            set_packets(host, mtu=9000, at_once=1)
        try:
            assert json.loads(h1.run(measure, cwd=ROOT).stdout) == {"failed": "large", "why": "timed out"}
        finally:
            for host in (h1, h2):
                set_packets(host, mtu=1500, at_once=65535)
            listener.kill()


def test_a_cut_host_is_named_at_once(trio: Trio) -> None:
    h3 = trio.hosts.all[2]
    trio.hosts.cut(h3)
    began = time.monotonic()
    (problem,) = trio.problems()
    assert time.monotonic() - began < 40
    # Ray's own health checks notice after half a minute.
    assert problem.startswith(f"h3 ({h3.address}) does not work: its Ray is not reached from here at port ")


def test_a_lost_host_is_remembered(trio: Trio) -> None:
    h3 = trio.hosts.all[2]
    trio.hosts.crash(h3)
    end = time.monotonic() + 90
    while "has left the cluster" not in (problem := trio.problems()[0]):
        assert time.monotonic() < end, problem
    assert problem.startswith(f"h3 ({h3.address}) has left the cluster: ")


def test_no_cluster(trio: Trio) -> None:
    done = orchestrator(trio.hosts.laptop, "cluster", "check", "--address", f"{trio.hosts.laptop.address}:6379")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Connection refused" in done.stderr.splitlines()[0]


def set_packets(host: Host, *, mtu: int, at_once: int) -> None:
    """The largest packet, and how many Linux may hand over uncut: between namespaces, those pass whatever their size."""
    host.run(["ip", "link", "set", "eth0", "mtu", str(mtu), "gso_max_segs", str(at_once)], check=True)


# --- troubles --------------------------------------------------------------------------------------------------------
def metadata_of(package: str) -> str:
    (found,) = Path(SITE).glob(f"{package}-*.dist-info/METADATA")
    return str(found)


@contextmanager
def parted(hosts: Hosts, one: Host, other: Host) -> Iterator[None]:
    hosts.part(one, other)
    try:
        yield
    finally:
        hosts.unite(one, other)


@contextmanager
def changed(file: Path, old: str, new: str) -> Iterator[None]:
    """A host's own copy of a file, with a small change."""
    text = file.read_text()
    file.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        file.write_text(text)


@contextmanager
def written(file: Path, text: str) -> Iterator[None]:
    file.write_text(text)
    try:
        yield
    finally:
        file.unlink()


@contextmanager
def full_disk(host: Host, folder: str) -> Iterator[None]:
    host.run(["mount", "-o", "remount,size=300m", folder], check=True)
    try:
        yield
    finally:
        host.run(["mount", "-o", "remount,size=50%", folder], check=True)


@contextmanager
def hidden(host: Host, folder: Path) -> Iterator[None]:
    """Take a shared folder away from a host, as if it had not been mounted."""
    host.run(["mount", "-t", "tmpfs", "nothing", folder], check=True)
    try:
        yield
    finally:
        host.run(["umount", folder], check=True)
