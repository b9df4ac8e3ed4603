"""A cluster on hosts of the test's own, started from the laptop as a person does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import HOME, Host, Hosts

ENVIRONMENT = Path(sys.prefix)
"""Every host sees this machine's files, and so the environment that is under test."""
ORCHESTRATOR = ENVIRONMENT / "bin/orchestrator"
PYTHON = [sys.executable, "-P"]
OWN_FOLDERS = (str(HOME), "/tmp", "/var/tmp", "/run", "/dev/shm")
"""Where a host keeps what it writes, and where a cluster may leave something."""
OF_SSH = (".ssh", "sshd", "utmp", "agent")


def spec(hosts: Hosts, name: str, machines: Sequence[Host], **own: Any) -> dict[str, Any]:
    """What a cluster.yaml says of some of the hosts, the first of which is the head."""
    head, *workers = machines
    return {
        "cluster_name": name,
        "provider": {
            "type": "local",
            "head_ip": head.address,
            "worker_ips": [worker.address for worker in workers],
        },
        "auth": {"ssh_user": "root", "ssh_private_key": str(hosts.key)},
        "metadata": {"orchestrator": {"environment": str(ENVIRONMENT), **own}},
    }


class Person:
    """Somebody at the laptop, with a cluster.yaml."""

    def __init__(self, hosts: Hosts, told: dict[str, Any]) -> None:
        self.hosts = hosts
        self.told = told
        self.file = HOME / f"{told['cluster_name']}.yaml"
        self.write(told)

    def write(self, told: dict[str, Any]) -> None:
        """Write the file anew."""
        self.hosts.laptop.file(self.file).write_text(yaml.safe_dump(told))

    def says(self, command: str, *words: str, timeout: float = 200.0) -> subprocess.CompletedProcess[str]:
        """Run `orchestrator cluster COMMAND FILE ...`."""
        return self.hosts.laptop.run(self.command(command, *words), timeout=timeout)

    def command(self, command: str, *words: str) -> list[str]:
        """As it is typed."""
        return [str(ORCHESTRATOR), "cluster", command, str(self.file), *words]

    def gets(self, command: str, *words: str, timeout: float = 200.0) -> str:
        """The same for what has to work: what it prints."""
        done = self.says(command, *words, timeout=timeout)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def login(self) -> dict[str, str]:
        """User and password for MLflow, as they lie on the laptop."""
        found: dict[str, str] = json.loads(self._kept("mlflow-login.json").read_text())
        return found

    def token(self) -> str:
        """Ray's token, as it lies on the laptop."""
        return self._kept("token").read_text()

    def _kept(self, name: str) -> Path:
        return self.hosts.laptop.file(HOME / ".orchestrator/remote" / self.told["cluster_name"] / name)


@contextmanager
def started(hosts: Hosts, told: dict[str, Any]) -> Iterator[Person]:
    """A cluster that is up for the time of a `with` block."""
    person = Person(hosts, told)
    person.gets("up")
    yield person
    person.says("down", "--delete-records")


def files_of(host: Host, shared: Path) -> set[str]:
    """What lies where a host keeps what it writes, without what ssh needs there, what is shared, and this checkout."""
    not_its_own = {str(shared), str(Path(__file__).resolve().parents[2])}  # Python keeps compiled modules in a checkout
    found = set()
    for folder in OWN_FOLDERS:
        root = str(host.file(folder))
        for where, folders, names in os.walk(root):
            inside = folder + where.removeprefix(root)
            folders[:] = [name for name in folders if f"{inside}/{name}" not in not_its_own and name not in OF_SSH]
            found |= {f"{inside}/{name}" for name in names if name not in OF_SSH}
            found |= {f"{inside}/{name}/" for name in folders if not str(shared).startswith(f"{inside}/{name}/")}
    return found


def open_ports(host: Host) -> dict[str, list[str]]:
    """Ports on which a host listens, by whether others reach them; without its sshd's."""
    found: dict[str, list[str]] = {"network": [], "loopback": []}
    for line in host.run(["ss", "-Hltn"], check=True).stdout.splitlines():
        address, _, port = line.split()[3].rpartition(":")
        kind = "loopback" if address.strip("[]").removeprefix("::ffff:").startswith("127.") else "network"
        if port != "22":
            found[kind].append(port)
    return found


def knock(asking: Host, address: str, ports: Sequence[str]) -> dict[str, int | dict[str, str]]:
    """What each port answers to somebody on a host who has no token: a status of HTTP, or words of gRPC."""
    done = asking.run(
        [*PYTHON, Path(__file__).parent / "knock.py", address, *sorted(set(ports))], check=True, timeout=200
    )
    answers: dict[str, int | dict[str, str]] = json.loads(done.stdout)
    return answers
