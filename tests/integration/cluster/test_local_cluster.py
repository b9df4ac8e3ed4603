"""`orchestrator up`, what follows it, and `down`, on this one machine, as a person uses them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ORCHESTRATOR = Path(sys.executable).with_name("orchestrator")


class Machine:
    """A person's shell in a folder of a project, with a home for clusters of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        self.env = {**kept, "ORCHESTRATOR_HOME": str(self.home)}

    def says(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        return subprocess.run(
            [ORCHESTRATOR, *words], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=200
        )

    def begins(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        command = [ORCHESTRATOR, *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def gets(self, *words: str) -> str:
        """Run a command that has to work."""
        done = self.says(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("project"))
    yield machine
    machine.says("down")


@pytest.fixture(scope="module")
def up(machine: Machine) -> dict[str, str]:
    record: dict[str, str] = json.loads(machine.gets("up", "--cpus", "2", "--json"))["record"]
    return record


def test_up_again_says_so_and_changes_nothing(machine: Machine, up: dict[str, str]) -> None:
    told = machine.gets("up")
    assert "is up already" in told
    assert up["ray"] in told
    status = json.loads(machine.gets("status", "--json"))
    assert (status["up"], status["record"]) == (True, up)


def test_nobody_else_reaches_it(up: dict[str, str], machine: Machine) -> None:
    """Neither over the network, nor on this machine without the token."""
    keepers = [
        json.loads((machine.home / f"clusters/local/{name}.json").read_text())["pid"] for name in ("ray", "mlflow")
    ]
    below = [each for pid in keepers for each in psutil.Process(pid).children(recursive=True)]
    listening = {
        each.laddr.ip for process in below for each in process.net_connections("tcp") if each.status == "LISTEN"
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    for address in (f"{up['dashboard']}/api/jobs/", f"{up['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"):
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            urllib.request.urlopen(address, timeout=20)
        caught.value.close()


def test_what_follows_finds_it(machine: Machine, up: dict[str, str]) -> None:
    doctor = {finding["name"]: finding for finding in json.loads(machine.gets("doctor", "--json"))["findings"]}
    assert up["ray"] in doctor["cluster"]["found"]
    assert f"MLflow: {up['mlflow']}" in machine.gets("ui", "--no-open")
    train = ["train", "job=diabetes", "cluster=existing", "cluster.workers=2", "job.epochs=1", "checkpoint=final_only"]
    summary = json.loads(machine.gets(*train, "--id", "fast", "--json"))
    assert (summary["status"], summary["tracking_uri"]) == ("finished", up["mlflow"])


def test_after_a_crash_up_makes_it_anew(machine: Machine, up: dict[str, str]) -> None:
    keeper = json.loads((machine.home / "clusters/local/ray.json").read_text())["pid"]
    psutil.Process(keeper).kill()
    psutil.wait_procs([psutil.Process(keeper)] if psutil.pid_exists(keeper) else [], 5)
    status = machine.says("status")
    assert (status.returncode, "broken" in status.stdout) == (3, True)
    assert json.loads(machine.gets("up", "--json"))["up"]


def test_down_leaves_mlflows_records_and_nothing_else(machine: Machine, up: dict[str, str]) -> None:
    told = machine.gets("down")
    assert "runs/mlflow/mlflow.db" in told
    assert machine.gets("down").startswith("Nothing was up.")
    assert machine.says("status").returncode == 3
    assert not machine.home.exists()
    assert not Path(up["scratch"]).exists()
    marked = [process for process in psutil.process_iter() if str(machine.home) in " ".join(_words(process))]
    assert not marked
    shown = json.loads(machine.gets("runs", "show", "fast", "--json"))
    assert shown["status"] == "finished"


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--no-token", "--address", "198.51.100.1"], "could be used by everybody who reaches that address"),
        (["--address", "198.51.100.1"], "198.51.100.1 cannot be used on"),
        (["--storage", "s3://bucket/runs"], "MLflow's SQLite file can only lie in a folder"),
    ],
)
def test_what_cannot_be_started_is_told_at_once(tmp_path: Path, words: list[str], told: str) -> None:
    machine = Machine(tmp_path)
    done = machine.says("up", *words)
    assert done.returncode in (2, 3)
    assert told in done.stderr
    assert not machine.home.exists()


def test_two_that_start_at_once_take_different_ports(tmp_path: Path) -> None:
    """As two people on one machine do; each looks for ports that are free, and all would find the same."""
    machines = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        machines.append(Machine(tmp_path / name))
    try:
        starts = [machine.begins("up", "--cpus", "1", "--json") for machine in machines]
        told = [start.communicate(timeout=200) for start in starts]
        assert [start.returncode for start in starts] == [0, 0], told
        records = [json.loads(out)["record"] for out, _ in told]
        for what in ("ray", "dashboard", "mlflow"):
            assert records[0][what] != records[1][what]
    finally:
        for machine in machines:
            machine.says("down")


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = machine.says("up", "--ray-port", str(taken.getsockname()[1]))
    assert (done.returncode, "(ray_port) of 127.0.0.1 cannot be used on" in done.stderr) == (3, True)
    assert not machine.home.exists()
