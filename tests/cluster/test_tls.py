"""A cluster of two with `tls: true`: it works, and plain text is refused, also from somebody who has the token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import HOME, Hosts
from tests.cluster.started import PYTHON, Person, knock, open_ports, spec, started

HERE = Path(__file__).parent
COUNT = """
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(logging_level=50)
where = ray.remote(lambda: ray.util.get_node_ip_address())
asked = [where.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote() for node in ray.nodes()]
print(len(set(ray.get(asked, timeout=60))))
"""


@pytest.fixture(scope="module")
def hosts(allowed: None) -> Iterator[Hosts]:
    with Hosts(2) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def person(hosts: Hosts) -> Iterator[Person]:
    with started(hosts, spec(hosts, "sealed", hosts.all, listen="network", tls=True)) as person:
        yield person


def test_its_machines_work_together(person: Person) -> None:
    assert person.gets("exec", "--", sys.executable, "-P", "-c", COUNT).splitlines()[-1] == "2"


def test_ray_refuses_plain_text(hosts: Hosts, person: Person) -> None:
    head = hosts.all[0]
    for port, answer in knock(hosts.laptop, head.address, open_ports(head)["network"]).items():
        if isinstance(answer, int):
            assert answer in (401, 403), f"{port}: {answer}"
        else:
            assert set(answer.values()) <= {"UNAVAILABLE"}, f"{port}: {answer}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": person.token()}
    command = [*PYTHON, HERE / "strangers.py", "ledger", f"{head.address}:6379"]
    assert hosts.laptop.run(command, env=token, timeout=120).stdout.splitlines()[-1].startswith("refused: ")


def test_mlflow_speaks_https_by_our_authority(hosts: Hosts, person: Person) -> None:
    address, laptop = person.login()["url"], hosts.laptop
    assert address.startswith("https://")
    assert laptop.run(["curl", "-sS", f"{address.replace('https', 'http')}/health"]).returncode != 0
    assert laptop.run(["curl", "-sS", f"{address}/health"]).returncode != 0  # its authority is not known to everybody
    ours = HOME / ".orchestrator/remote/sealed/tls/ca.pem"
    assert laptop.run(["curl", "-sS", "--cacert", ours, f"{address}/health"]).stdout == "OK"
