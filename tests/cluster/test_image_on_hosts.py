"""A cluster in containers of an image, one on each host: started, used and ended by a real podman over a real SSH."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import HOME, ROOT, Host, Hosts
from tests.cluster.started import ENVIRONMENT, ORCHESTRATOR, Person, files_of, spec, started
from tests.cluster.test_install import find_packages, wheels

IMAGE, MARK = "localhost/training:1", "/only-in-the-image"
CONTAINER = "orchestrator-inside"
SYSTEM = ("bin", "sbin", "lib", "lib64")
STORAGE = """\
[storage]
driver = "vfs"
graphroot = "/var/lib/containers-of-the-test"
runroot = "/run/containers-of-the-test"
"""
ENGINE = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""What works in namespaces, without systemd and without the right to mount an overlay on an overlay."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def hosts(allowed: None, shared: Path, index: Path) -> Iterator[Hosts]:
    with Hosts(2, shared=[shared, index]) as hosts:
        for host in hosts.all:
            settle(host)
        yield hosts
    remove_control_groups()


@pytest.fixture(scope="module")
def before(hosts: Hosts, shared: Path) -> dict[str, set[str]]:
    return {host.name: files_of(host, shared) for host in hosts.all}


@pytest.fixture(scope="module")
def person(hosts: Hosts, shared: Path, before: object) -> Iterator[Person]:
    with started(hosts, inside(hosts, shared)) as person:
        yield person


def settle(host: Host) -> None:
    """Give a host a podman with storage of its own and our image; the first container makes folders that stay."""
    for name, text in (("storage.conf", STORAGE), ("containers.conf", ENGINE)):
        host.run(["sh", "-c", f"mkdir -p /etc/containers && cat > /etc/containers/{name}"], input=text, check=True)
    host.file("/var/image.tar").write_bytes(image())
    host.run(["podman", "import", "/var/image.tar", IMAGE], check=True)
    host.run(["podman", "run", "--rm", *" ".join(options()).split(), IMAGE, "/usr/bin/true"], check=True)


def image() -> bytes:
    """All that is in it: a mark, temporary folders, and the way to the system, which is mounted."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(MARK.lstrip("/")))
        for name in ("tmp", "var", "var/tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(folder)
        for name in SYSTEM:
            if Path("/", name).is_symlink():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, str(Path("/", name).readlink())
                archive.addfile(link)
    return packed.getvalue()


def options(*folders: Path) -> list[str]:
    """What our image needs of the machine."""
    system = [Path("/", name) for name in SYSTEM if not Path("/", name).is_symlink()]
    own = [Path(path) for path in ("/usr", "/etc", ROOT, sys.prefix, sys.base_prefix)]
    needed = {path for path in (*system, *own) if path.exists()}
    outer = [path for path in sorted(needed) if not needed & set(path.parents)]
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(kind)[1] for name, kind in limits.items()}
    return [
        *(f"-v {path}:{path}:ro" for path in outer),
        *(f"-v {path}:{path}" for path in folders),
        *(f"--ulimit {name}={limit}:{limit}" for name, limit in hard.items()),
    ]


SYSTEM_ALONE = [option for option in options() if "-v /usr:" in option or "--ulimit" in option]


def inside(hosts: Hosts, shared: Path, name: str = "inside", **docker: Any) -> dict[str, Any]:
    own = {"image": IMAGE, "use_podman": True, "pull_before_run": False, "run_options": options(shared)}
    return {**spec(hosts, name, hosts.all), "docker": {**own, **docker}}


def remove_control_groups() -> None:
    """Those of containers that ended with their host: they are the kernel's, and so the machine's. Others are not empty."""
    for parent in Path("/sys/fs/cgroup").glob("**/libpod_parent"):
        for folder in (*parent.glob("*"), parent):
            with contextlib.suppress(OSError):
                folder.rmdir()


def containers(host: Host) -> list[str]:
    return host.run(["podman", "ps", "-a", "--format", "{{.Names}}"], check=True).stdout.split()


def test_validate_looks_into_the_image_and_starts_nothing_that_stays(hosts: Hosts, shared: Path) -> None:
    text = Person(hosts, inside(hosts, shared)).gets("validate")
    assert f"inside has a head and 1 workers, in {IMAGE} by podman." in text
    assert text.count("Python 3.") == 2
    assert [containers(host) for host in hosts.all] == [[], []]
    missing = Person(hosts, inside(hosts, shared, image="localhost/none:1")).gets("validate")
    assert missing.count("localhost/none:1 is not there yet: `orchestrator cluster up` pulls it") == 2


@pytest.mark.parametrize(
    ("docker", "line"),
    [
        ({"image": "localhost/none:1"}, "the image localhost/none:1 is not there and cannot be pulled: "),
        ({"run_options": ["--no-such-option"]}, f"no container can be started from {IMAGE}: unknown flag: --no-such"),
        ({"run_options": SYSTEM_ALONE}, f"there is no Python at {ENVIRONMENT}/bin/python in the image."),
    ],
)
def test_what_keeps_containers_from_starting_is_told(
    hosts: Hosts, shared: Path, docker: dict[str, Any], line: str
) -> None:
    bad = inside(hosts, shared, "bad", **docker)
    bad["provider"]["worker_ips"] = []
    done = Person(hosts, bad).says("up")
    assert done.returncode == 3, done.stderr
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1
    assert f"error: {hosts.all[0].address}: {line}" in errors[0]
    Person(hosts, bad).gets("down")
    assert containers(hosts.all[0]) == []


def test_an_environment_is_made_from_the_python_of_the_image(hosts: Hosts, index: Path) -> None:
    for host in hosts.all:
        find_packages(host, index)
    told = inside(hosts, index, "made")
    told["metadata"]["orchestrator"] = {"python": f"{sys.base_prefix}/bin/python3", "extras": [], "mlflow": False}
    # It has no Ray, which would take minutes, so `up` goes as far as the head's start.
    person = Person(hosts, told)
    done = person.says("up")
    assert "the environment" in done.stderr
    assert "2 machines answer" in done.stderr
    python = HOME / ".orchestrator/environments/made/bin/python"
    for host in hosts.all:
        made = host.run(["podman", "exec", "orchestrator-made", python, "-c", "import orchestrator as o; print(o)"])
        assert "/environments/made/" in made.stdout
    person.gets("down")
    for host in hosts.all:
        assert containers(host) == []
        assert not host.file(HOME / ".orchestrator").exists()


def test_all_of_it_runs_in_the_containers(person: Person) -> None:
    state = json.loads(person.gets("status", "--json"))
    assert (state["up"], len(state["machines"])) == (True, 2)
    for host in person.hosts.all:
        assert containers(host) == [CONTAINER]
        assert not host.file(MARK).exists()
        there = ["--on", host.address, str(person.file), "--", "test", "-f", MARK]
        person.hosts.laptop.run([str(ORCHESTRATOR), "cluster", "exec", *there], check=True)
        lines = host.run(["podman", "exec", CONTAINER, "sh", "-c", "cat /proc/[0-9]*/cmdline"], check=True).stdout
        assert "raylet/raylet" in lines
        record = host.file(HOME / ".orchestrator/clusters/inside/cluster.json")
        scratch = json.loads(record.read_text())["scratch"]
        assert not host.file(scratch).exists()
    assert person.says("exec", "--", "sh", "-c", "exit 7").returncode == 7


def test_no_secret_stands_on_a_command_line_or_in_a_container(person: Person) -> None:
    for host in person.hosts.all:
        seen = host.run(["podman", "inspect", CONTAINER], check=True).stdout + "".join(host.processes().values())
        assert person.token() not in seen
        assert person.login()["password"] not in seen


def test_a_plan_over_both_is_trained_from_the_head(person: Person, shared: Path) -> None:
    overrides = ["job=diabetes", "job.epochs=1", "strategy=zero1", "checkpoint=final_only"]
    cluster = ["cluster=existing", "cluster.workers=2", "cluster.nodes=2", "cluster.placement=spread"]
    storage = [f"storage.path={shared}/runs", "storage.shared=true"]
    command = ["--", "orchestrator", "train", *overrides, *cluster, *storage, "--id", "inside", "--json"]
    summary = json.loads(person.gets("exec", *command, timeout=280))
    assert summary["status"] == "finished"
    written = {file.name for file in (shared / "runs/inside/events").iterdir()}
    assert {"node-0.jsonl", "node-1.jsonl"} <= written


def test_a_container_that_was_killed_is_replaced_and_others_are_kept(person: Person, shared: Path) -> None:
    head, worker = person.hosts.all
    ids = {host.name: host.run(["podman", "ps", "-q"], check=True).stdout for host in (head, worker)}
    worker.run(["podman", "kill", CONTAINER], check=True)
    state = person.says("status")
    assert state.returncode == 3
    assert "nothing was started there" in state.stdout
    person.gets("up")
    assert head.run(["podman", "ps", "-q"], check=True).stdout == ids["h1"]
    assert worker.run(["podman", "ps", "-q"], check=True).stdout not in ("", ids["h2"])
    changed = Person(person.hosts, inside(person.hosts, shared, run_options=options()))
    refused = changed.says("up")
    person.write(person.told)
    assert refused.returncode == 3
    assert "the cluster runs in another image or with other options than docker names now" in refused.stderr


def test_down_leaves_nothing_also_where_a_container_has_ended(
    person: Person, before: dict[str, set[str]], shared: Path
) -> None:
    person.hosts.all[1].run(["podman", "kill", CONTAINER], check=True)
    assert "Kept: MLflow's records, in" in person.gets("down")
    assert "Nothing was up." in person.gets("down", "--delete-records")
    for host in person.hosts.all:
        assert containers(host) == []
        assert host.processes() == {}
        assert files_of(host, shared) - before[host.name] == set()
    assert not person.hosts.laptop.file(HOME / ".orchestrator").exists()
    absent = person.says("exec", "--", "true")
    assert (absent.returncode, absent.stderr.strip()) == (
        3,
        "The cluster inside is not up: its container does not run there.",
    )
