"""The environment that is made on machines: from a package index that holds what this environment has."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.cluster.hosts import HOME, Host, Hosts
from tests.cluster.started import Person, files_of, spec

PACKAGES = (
    *("click", "fsspec", "hydra-core", "antlr4-python3-runtime", "omegaconf", "packaging", "pathspec", "psutil"),
    *("PyYAML", "rich", "markdown-it-py", "mdurl", "Pygments"),
)
"""What orchestrator needs without extras. torch and Ray would take minutes, and are installed in the same way."""
STEPS = """
import json, sys
from pathlib import Path
from orchestrator.cluster.launch import cluster_spec
from orchestrator.project import wheel
from orchestrator.cluster.launch.install import Installer
from orchestrator.cluster.launch.cluster import Cluster
spec = cluster_spec.read(Path(sys.argv[1]))
if sys.argv[2:]:
    name, data = wheel.build()
    Path("/home/host/newer.whl").write_bytes(data)
    import zipfile
    with zipfile.ZipFile("/home/host/newer.whl", "a") as archive:
        archive.writestr("orchestrator/newer.py", "")
    wheel.build = lambda: (name, Path("/home/host/newer.whl").read_bytes())
with Cluster.connections(spec) as connections:
    cluster = Cluster(spec, connections)
    surveys = cluster.survey()
    installer = Installer(spec, connections)
    print(json.dumps([[installer.needed(each), installer.anew(each)] for each in surveys]))
    cluster._install(surveys, print)
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels(tmp_path_factory.mktemp("wheels"))


def wheels(folder: Path) -> Path:
    """Wheels of installed packages, packed again."""
    for name in PACKAGES:
        pack(metadata.distribution(name), folder)
    return folder


def pack(distribution: metadata.Distribution, folder: Path) -> None:
    tags = [
        line.split(": ")[1] for line in (distribution.read_text("WHEEL") or "").splitlines() if line.startswith("Tag")
    ]
    parts = [sorted({tag.split("-")[place] for tag in tags}) for place in range(3)]
    name = distribution.metadata["Name"].replace("-", "_")
    file = folder / f"{name}-{distribution.version}-{'-'.join('.'.join(part) for part in parts)}.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path in distribution.files or ():
            if (
                path.suffix != ".pyc"
                and ".." not in path.parts
                and path.name not in ("INSTALLER", "REQUESTED", "direct_url.json")
            ):
                archive.write(str(path.locate()), str(path))


@pytest.fixture(scope="module")
def hosts(allowed: None, index: Path) -> Iterator[Hosts]:
    with Hosts(2, shared=[index]) as hosts:
        for host in hosts.all:
            find_packages(host, index)
        yield hosts


def find_packages(host: Host, index: Path) -> None:
    """Let pip on a host find those packages, and look for no others."""
    host.file("/etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {index}\n")


def test_it_is_made_once_renewed_when_code_changes_and_removed(hosts: Hosts, index: Path) -> None:
    told = spec(hosts, "fresh", hosts.all, extras=[], mlflow=False)
    del told["metadata"]["orchestrator"]["environment"]
    person = Person(hosts, told)
    before = {host.name: files_of(host, index) for host in hosts.all}

    assert steps(person) == [[True, True]] * 2
    assert steps(person) == [[False, False]] * 2
    program = HOME / ".orchestrator/environments/fresh/bin/orchestrator"
    for host in hosts.all:
        assert host.run([program, "--version"], check=True).stdout.startswith("orchestrator ")
        assert host.run([program, "plan", "job=digits"]).returncode == 0
    assert steps(person, "newer") == [[True, False]] * 2
    inside = hosts.all[1].run([program.with_name("python"), "-c", "import orchestrator.newer as n; print(n.__file__)"])
    assert "environments/fresh" in inside.stdout

    person.gets("down")
    left = {
        host.name: {file for file in files_of(host, index) - before[host.name] if "/.cache" not in file}
        for host in hosts.all
    }
    assert left == {host.name: set() for host in hosts.all}


def steps(person: Person, *words: str) -> list[list[bool]]:
    """Install from the laptop; whether each machine needed it, and from nothing."""
    command = [sys.executable, "-P", "-c", STEPS, person.file, *words]
    done = person.hosts.laptop.run(command, check=True, timeout=250)
    told: list[list[bool]] = json.loads(done.stdout.splitlines()[0])
    return told


def test_what_cannot_be_installed_is_told(hosts: Hosts) -> None:
    told = spec(hosts, "fresh", hosts.all[:1], extras=["no-such-extra", "node"], mlflow=False)
    del told["metadata"]["orchestrator"]["environment"]
    done = Person(hosts, told).says("up")
    assert done.returncode == 3
    assert f"{hosts.all[0].address}: the environment could not be installed: ERROR: " in done.stderr
    Person(hosts, told).gets("down")


def test_records_are_deleted_also_when_the_environment_that_wrote_them_is_gone(hosts: Hosts) -> None:
    told = spec(hosts, "fresh", hosts.all[:1])
    del told["metadata"]["orchestrator"]["environment"]
    records = hosts.all[0].file(HOME / ".orchestrator/mlflow/fresh")
    (records / "artifacts/1").mkdir(parents=True)
    (records / "mlflow.db").write_text("all that was measured")
    Person(hosts, told).gets("down")
    assert (records / "mlflow.db").exists()
    Person(hosts, told).gets("down", "--delete-records")
    assert not records.parent.parent.exists()
