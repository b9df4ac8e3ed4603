"""What is said to docker and podman, and what is told of their answers. The shell is real; the program is a stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.launch import containers
from orchestrator.cluster.launch.cluster_spec import ClusterSpec, ImageSettings, SshSettings
from orchestrator.cluster.launch.containers import Containers
from orchestrator.cluster.launch.ssh import Connections
from orchestrator.errors import MachineError

TOOLS = ("sh", "cat", "cut", "dirname", "grep", "id", "ls", "rm", "sed", "touch")
"""All that is on a machine beside its program for containers: this one may have another."""
HEAD, WORKER = "10.0.0.1", "10.0.0.2"
PROGRAM = """\
#!/bin/sh
# Its state are files beside it: image, registry, broken, refuses; container: "RUNS|CLUSTER|CONTENT".
cd "$(dirname "$0")" || exit 1
printf '%s\\n' "$*" >>said
if [ -e broken ]; then echo 'Cannot connect to the Docker daemon. Is it running?' >&2; exit 1; fi
case "$1 $2" in
"ps -aq") [ ! -e container ] || echo 0123 ;;
"container inspect")
    [ -e container ] || exit 1
    case "$4" in *content*) cat container ;; *) cut -d'|' -f1,2 --output-delimiter=' ' container ;; esac ;;
"image inspect") [ -e image ] || exit 1 ;;
"pull -q") [ -e registry ] || { echo 'Error: access is denied' >&2; exit 125; }; touch image ;;
"run -d")
    if [ -e refuses ]; then printf 'Error: unknown flag: --foo\\nSee "docker run --help"\\n' >&2; exit 125; fi
    echo "true|$(echo "$*" | sed 's/.*cluster=\\([^ ]*\\).*/\\1/')|$(echo "$*" | sed 's/.*content=\\([^ ]*\\).*/\\1/')" >container ;;
"rm -f") rm -f container ;;
"exec -i") shift 3; exec "$@" ;;
esac
"""


class Here(Connections):
    """This machine in the place of all others."""

    def shell(
        self, address: str, line: str, *, data: bytes = b"", timeout_s: float = 60.0, on_machine: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        line = line if on_machine else self._entry(line, False)
        return subprocess.run(["sh", "-c", line], input=data, capture_output=True, timeout=timeout_s, check=False)


class Machine:
    """A machine with a home and a program for containers."""

    def __init__(self, folder: Path, program: str = "docker") -> None:
        self.programs, self.home = folder / "programs", folder / "home"
        self.programs.mkdir()
        self.home.mkdir()
        self.install(program, PROGRAM)
        self.install("ssh", "#!/bin/sh\n")
        (self.programs / "image").touch()

    def install(self, name: str, text: str) -> None:
        file = self.programs / name
        file.write_text(text)
        file.chmod(0o755)

    def has(self, name: str, text: str = "") -> None:
        (self.programs / name).write_text(text)

    def said(self, verb: str = "") -> list[str]:
        file = self.programs / "said"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(verb)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    for name in TOOLS:
        made.programs.joinpath(name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(made.programs))
    monkeypatch.setenv("HOME", str(made.home))
    return made


def connected(**docker: Any) -> tuple[Containers, Here]:
    image = ImageSettings(**{"image": "training:1", "container_name": "orchestrator-own", **docker})
    spec = ClusterSpec(file=Path("cluster.yaml"), name="own", head=HEAD, workers=(WORKER,), image=image)
    connections = Here(SshSettings(), entry=containers.entry(spec))
    return Containers(spec, image, connections), connections


def made(**docker: Any) -> Containers:
    return connected(**docker)[0]


def refused(start: Containers, address: str = HEAD) -> MachineError:
    with pytest.raises(MachineError) as caught:
        start.start(address)
    assert "\n" not in str(caught.value)
    assert caught.value.message.startswith(f"{address}: ")
    assert caught.value.hint
    return caught.value


def test_it_is_started_once_with_home_network_and_shared_memory_of_the_machine(machine: Machine) -> None:
    ours = made(run_options=("-v /data:/data",), head_run_options=("--ulimit nofile=9:9",), pull_before_run=False)
    ours.start(HEAD)
    ours.start(HEAD)
    (line,) = machine.said("run")
    home = str(machine.home)
    for words in (
        "run -d --name orchestrator-own --label orchestrator.cluster=own --label orchestrator.content=",
        f"--network=host --security-opt label=disable --ipc=host --user {os.getuid()}:{os.getgid()}",
        f"-v {home}:{home} -w {home} -e HOME={home} -e USER=",
        "-v /data:/data --ulimit nofile=9:9 --entrypoint /bin/sh training:1 -c trap",
    ):
        assert words in line
    assert "gpu" not in line
    assert not machine.said("pull")


def test_gpus_are_given_where_there_are_some_and_nobody_says_otherwise(machine: Machine) -> None:
    machine.install("nvidia-smi", "#!/bin/sh\n")
    made().start(HEAD)
    assert "--ipc=host --gpus all --user" in machine.said("run")[0]
    options: list[dict[str, Any]] = [
        {"disable_automatic_runtime_detection": True},
        {"run_options": ("--runtime=nvidia",)},
    ]
    for number, docker in enumerate(options, start=1):
        machine.has("container", "false|own|")
        made(**docker).start(HEAD)
        assert "--gpus" not in machine.said("run")[number]


def test_shared_memory_is_left_to_the_file_where_it_speaks_of_it(machine: Machine) -> None:
    made(run_options=("--shm-size=1g",)).start(HEAD)
    assert "--ipc" not in machine.said("run")[0]


def test_podman_runs_as_the_account_and_names_gpus_in_its_own_way(machine: Machine) -> None:
    machine.install("podman", PROGRAM)
    machine.install("nvidia-smi", "#!/bin/sh\n")
    made(use_podman=True).start(HEAD)
    assert "--device nvidia.com/gpu=all --user 0:0" in machine.said("run")[0]


def test_a_line_is_run_inside_with_its_data(machine: Machine) -> None:
    ours, connections = connected()
    absent = connections.shell(HEAD, "cat")
    assert (absent.returncode, absent.stderr) == (
        3,
        b"The cluster own is not up: its container does not run there.\n",
    )
    ours.start(HEAD)
    done = connections.shell(HEAD, 'cat; echo "it\'s $0"; exit 7', data=b"secret ")
    assert (done.returncode, done.stdout) == (7, b"secret it's sh\n")
    assert not [line for line in machine.said() if "secret" in line]
    enter = connections._entry
    assert "docker exec -it orchestrator-own sh -c top" in enter("top", True)


def test_one_that_has_ended_or_is_of_another_image_is_replaced(machine: Machine) -> None:
    ours = made()
    machine.has("container", f"false|own|{ours._content(HEAD)}")
    ours.start(HEAD)
    made(image="training:2").start(HEAD)
    assert (len(machine.said("rm -f")), len(machine.said("run"))) == (2, 2)


def test_one_in_which_a_cluster_runs_is_not(machine: Machine) -> None:
    made().start(HEAD)
    record = machine.home / ".orchestrator/clusters/own/cluster.json"
    record.parent.mkdir(parents=True)
    record.touch()
    error = refused(made(run_options=("-v /data:/data",)))
    assert "the cluster runs in another image or with other options" in error.message
    assert error.hint == "End it first: orchestrator cluster down cluster.yaml"
    assert not machine.said("rm")


def test_somebody_elses_container_is_left_alone(machine: Machine) -> None:
    machine.has("container", "true|other|")
    assert "a container orchestrator-own already, and it is not of this cluster." in refused(made()).message
    assert not made().wake(HEAD, ["~"])
    assert not machine.said("rm")


def test_no_program(machine: Machine) -> None:
    error = refused(made(use_podman=True))
    assert error.message == f"{HEAD}: there is no podman, and docker.image needs it."
    assert not made(use_podman=True).wake(HEAD, ["~/.orchestrator/clusters/own"])


def test_no_daemon(machine: Machine) -> None:
    machine.has("broken")
    error = refused(made())
    assert error.message == f"{HEAD}: docker does not work there: Cannot connect to the Docker daemon. Is it running?"


def test_an_image_is_pulled_and_what_cannot_be_is_told(machine: Machine) -> None:
    told: list[str] = []
    made().start(HEAD, told.append)
    assert told == [f"{HEAD} takes the training:1 that is there; a newer one cannot be pulled: access is denied."]
    (machine.programs / "image").unlink()
    (machine.programs / "container").unlink()
    error = refused(made())
    assert error.message == f"{HEAD}: the image training:1 is not there and cannot be pulled: access is denied."
    assert not made().ready(HEAD)
    machine.has("registry")
    made().start(HEAD, told.append)
    assert told[-1] == f"{HEAD} pulls training:1; the first time this takes minutes"
    assert made().ready(HEAD)


def test_an_option_that_is_refused(machine: Machine) -> None:
    machine.has("refuses")
    error = refused(made(run_options=("--foo",)), WORKER)
    assert error.message == f"{WORKER}: no container can be started from training:1: unknown flag: --foo."
    assert "docker.run_options" in error.hint
    assert machine.said("rm -f")


def test_down_wakes_it_only_where_something_is_left(machine: Machine) -> None:
    left = ["~/.orchestrator/clusters/own"]
    machine.has("container", "false|own|")
    assert not made().wake(HEAD, left)
    assert machine.said("rm -f")
    assert not made().wake(HEAD, left)
    (machine.home / ".orchestrator/clusters/own").mkdir(parents=True)
    assert made().wake(HEAD, left)
    assert len(machine.said("run -d")) == 1
    assert not machine.said("pull")
    made().remove(HEAD)
    assert not (machine.programs / "container").exists()
