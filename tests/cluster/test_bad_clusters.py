"""What keeps a cluster from being started: each is told in one clear line, and nothing is left running."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import HOME, Hosts
from tests.cluster.started import ENVIRONMENT, Person, spec

LISTEN = "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 6379)); s.listen(); print('ready', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def hosts(allowed: None) -> Iterator[Hosts]:
    with Hosts(3) as hosts:
        yield hosts


@pytest.fixture(autouse=True)
def nothing_is_left(hosts: Hosts) -> Iterator[None]:
    yield
    end = time.monotonic() + 5
    while any(host.processes() for host in hosts.all) and time.monotonic() < end:
        time.sleep(0.1)  # ssh's own processes are on their way out
    assert {host.name: host.processes() for host in hosts.all} == {host.name: {} for host in hosts.all}


def refused(hosts: Hosts, command: str = "up", code: int = 3, machines: int = 3, **own: Any) -> str:
    """The one line that `up` ends with."""
    return refused_with(hosts, spec(hosts, "bad", hosts.all[:machines], **own), command, code)


def refused_with(hosts: Hosts, told: dict[str, Any], command: str = "up", code: int = 3) -> str:
    done = Person(hosts, told).says(command)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    error, *hint = [line for line in done.stderr.splitlines() if "error:" in line or not line[:1].isdigit()]
    assert len(hint) <= 1, done.stderr
    return error.partition("error: ")[2]


def test_a_typo(hosts: Hosts) -> None:
    assert "there is no setting metadata.orchestrator.tsl" in refused(hosts, code=2, tsl=True)


def test_a_machine_that_is_not_there(hosts: Hosts) -> None:
    told = spec(hosts, "bad", hosts.all[:2])
    told["provider"]["worker_ips"].append("10.77.0.99")
    line = refused_with(hosts, told)
    assert line.startswith("10.77.0.99 cannot be reached over SSH: ssh: connect to host 10.77.0.99 port 22: ")


def test_a_key_that_the_machines_do_not_know(hosts: Hosts) -> None:
    key = HOME / "other_key"
    hosts.laptop.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    told = spec(hosts, "bad", hosts.all[:1])
    told["auth"]["ssh_private_key"] = str(key)
    assert refused_with(hosts, told) == f"{hosts.all[0].address} cannot be used over SSH: it takes none of our keys."


def test_a_machine_whose_host_key_is_another_one(hosts: Hosts) -> None:
    known = hosts.laptop.file(HOME / ".ssh/known_hosts")
    right = known.read_text()
    first, second = (line.split(" ", 1)[1] for line in right.splitlines()[:2])
    known.write_text(right.replace(first, second))
    try:
        line = refused(hosts, machines=1)
    finally:
        known.write_text(right)
    assert line == f"{hosts.all[0].address} cannot be used over SSH: its host key is not the one we know."


def test_an_environment_that_is_not_there(hosts: Hosts) -> None:
    line = refused(hosts, machines=1, environment="/opt/none")
    assert line == f"{hosts.all[0].address}: there is no Python at /opt/none/bin/python."


def test_another_python(hosts: Hosts) -> None:
    other, version = other_python()
    for host in hosts.all:
        host.run(["mkdir", "-p", "/opt/env/bin"], check=True)
        python = other if host is hosts.all[2] else ENVIRONMENT / "bin/python"
        host.run(["ln", "-s", str(python), "/opt/env/bin/python"], check=True)
    line = refused(hosts, environment="/opt/env")
    ours = ".".join(map(str, sys.version_info[:3]))
    assert line == f"{hosts.all[2].address}: Python is {version}, and the head has {ours}."


def other_python() -> tuple[str, str]:
    """A Python of another version than ours."""
    places = [*Path(sys.base_prefix).parent.glob("*/bin/python3"), Path("/usr/bin/python3"), shutil.which("python3")]
    for place in filter(None, places):
        told = subprocess.run([place, "-I", "-V"], capture_output=True, text=True, check=False).stdout.split()
        if told and told[-1].split(".")[:1] == ["3"] and told[-1] != ".".join(map(str, sys.version_info[:3])):
            return str(place), told[-1]
    raise AssertionError("this test needs a second Python: apt-get install python3")


def test_another_ray(hosts: Hosts) -> None:
    """On one host, whose files are its own as soon as it writes to them."""
    distribution = metadata.distribution("ray")
    version = distribution.version
    file = hosts.all[1].file(str(distribution._path / "METADATA"))  # type: ignore[attr-defined]
    right = file.read_text()
    file.write_text(right.replace(f"Version: {version}", "Version: 2.59.0", 1))
    try:
        line = refused(hosts)
    finally:
        file.write_text(right)
    assert line == f"{hosts.all[1].address}: ray is 2.59.0, and the head has {version}."


def test_a_full_disk(hosts: Hosts) -> None:
    host = hosts.all[1]
    host.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", "/tmp"], check=True)
    try:
        line = refused(hosts)
    finally:
        host.run(["umount", "/tmp"], check=True)
    assert line == f"{host.address}: 1 MiB are free in /tmp, and 512 MiB are needed."


def test_a_port_that_is_taken(hosts: Hosts) -> None:
    host = hosts.all[0]
    with host.popen([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout
        listener.stdout.readline()
        line = refused(hosts, machines=1)
        listener.kill()
    where = f"Port 6379 (ray_port) of {host.address} cannot be used on {host.name}"
    assert line == f"{host.address}: {where}: Address already in use."


def test_a_setup_command_that_fails(hosts: Hosts) -> None:
    told = {**spec(hosts, "bad", hosts.all[:2]), "setup_commands": ["echo no such disk >&2; exit 4"]}
    lines = Person(hosts, told).says("up").stderr.splitlines()
    assert "error: 2 machines cannot take part." in lines
    assert (
        sum(f"{host.address}: a setup command failed: no such disk." in line for host in hosts.all for line in lines)
        == 2
    )


def test_two_heads(hosts: Hosts) -> None:
    told = spec(hosts, "bad", hosts.all)
    told["provider"]["head_ip"] = [host.address for host in hosts.all[:2]]
    assert refused_with(hosts, told, code=2).endswith("provider.head_ip is a list, and a cluster has one head.")


def test_validate_says_the_same_and_what_is_right(hosts: Hosts) -> None:
    assert "there is no Python at" in refused(hosts, "validate", machines=1, environment="/opt/none")
    good = Person(hosts, spec(hosts, "good", hosts.all))
    told = good.gets("validate")
    assert all(f"{host.address}" in told and host.name in told for host in hosts.all)
    assert "good has a head and 2 workers" in good.gets("validate", "--offline")


def test_down_tells_whom_it_could_not_ask(hosts: Hosts) -> None:
    told = spec(hosts, "bad", hosts.all[:1])
    told["provider"]["worker_ips"].append("10.77.0.99")
    assert refused_with(hosts, told, "down").startswith("10.77.0.99 cannot be reached over SSH")
