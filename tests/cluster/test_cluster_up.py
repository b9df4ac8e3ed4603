"""One cluster of three hosts, walked from `up` to `down` as a person at a laptop does it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import HOME, Host, Hosts
from tests.cluster.started import Person, files_of, spec, started

READ_METRICS = """
import json, os, sys
from mlflow import MlflowClient
client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
run = client.get_run(sys.argv[1])
print(json.dumps({"status": run.info.status, "metrics": run.data.metrics}))
"""
SUBMIT_JOB = """
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient("http://127.0.0.1:8265")
job = client.submit_job(entrypoint="echo done", submission_id="canary")
print(client.get_job_info(job).model_dump_json() if hasattr(client.get_job_info(job), "model_dump_json") else client.get_job_info(job))
"""
PYTHON = [sys.executable, "-P", "-c"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def hosts(allowed: None, shared: Path) -> Iterator[Hosts]:
    with Hosts(3, shared=[shared]) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def before(hosts: Hosts, shared: Path) -> dict[str, tuple[set[str], str]]:
    """What was on the hosts before there was a cluster."""
    return {host.name: (files_of(host, shared), rules_of(host)) for host in hosts.all}


@pytest.fixture(scope="module")
def person(hosts: Hosts, before: object) -> Iterator[Person]:
    with started(hosts, spec(hosts, "walked", hosts.all, listen="network")) as person:
        yield person


def rules_of(host: Host) -> str:
    return "".join(host.run(["ip", *words.split()], check=True).stdout for words in ("rule", "route", "-brief address"))


def test_up_again_and_status_say_that_all_is_there(person: Person) -> None:
    again = person.says("up")
    assert (again.returncode, "3 of 3 machines have joined" in again.stderr) == (0, True)
    told = json.loads(person.gets("status", "--json"))
    assert told["up"]
    assert [machine["role"] for machine in told["machines"]] == ["head", "worker", "worker"]
    assert {machine["member"]["alive"] for machine in told["machines"]} == {True}
    nodes = json.loads(person.gets("nodes", "--json"))
    assert [node["address"] for node in nodes] == [host.address for host in person.hosts.all]


def test_the_check_finds_nothing_to_mend(person: Person, shared: Path) -> None:
    told = json.loads(person.gets("check", "--data", str(shared), "--storage", f"{shared}/runs", "--json"))
    assert (told["verdict"], told["findings"]) == ("ok", [])
    assert [node["name"] for node in told["nodes"]] == [host.name for host in person.hosts.all]
    assert [pair["nodes"] for pair in told["pairs"]] == [["h1", "h2"], ["h1", "h3"], ["h2", "h3"]]
    assert told["all_reduce"]["nodes"] == 3
    assert not list(shared.iterdir())


def test_a_plan_over_two_hosts_is_trained_from_the_head(person: Person, shared: Path) -> None:
    overrides = ["job=diabetes", "job.epochs=1", "strategy=zero3", "checkpoint=final_only"]
    cluster = ["cluster=existing", "cluster.workers=2", "cluster.nodes=2", "cluster.placement=spread"]
    storage = [f"storage.path={shared}/runs", "storage.shared=true"]
    command = ["--", "orchestrator", "train", *overrides, *cluster, *storage, "--id", "walked", "--json"]
    summary = json.loads(person.gets("exec", *command, timeout=280))
    assert summary["status"] == "finished"
    written = {file.name for file in (shared / "runs/walked/events").iterdir()}
    assert {"node-0.jsonl", "node-1.jsonl"} <= written
    env = {
        "MLFLOW_TRACKING_URI": person.login()["url"],
        "MLFLOW_TRACKING_AUTH": "orchestrator",
        "ORCHESTRATOR_MLFLOW_LOGIN": str(HOME / ".orchestrator/remote/walked/mlflow-login.json"),
    }
    read = person.hosts.laptop.run([*PYTHON, READ_METRICS, summary["mlflow_run_id"]], env=env, check=True, timeout=120)
    recorded = json.loads(read.stdout.splitlines()[-1])
    assert recorded["status"] == "FINISHED"
    assert recorded["metrics"]["test/loss"] == pytest.approx(summary["metrics"]["test/loss"])


def test_token_and_password_are_found_only_where_they_belong(person: Person, shared: Path) -> None:
    """After a training: whatever wrote something has written it."""
    person.gets("exec", "--", sys.executable, "-P", "-c", SUBMIT_JOB)
    secrets = [person.token().encode(), person.login()["password"].encode()]
    for host in [*person.hosts.all, person.hosts.laptop]:
        for path in told_by(host, secrets):
            name, mode = path.name, path.stat().st_mode & 0o777
            assert name in ("token", "mlflow-login.json", "mlflow-server.ini"), path
            assert mode == 0o600, path
            assert path.parent.stat().st_mode & 0o077 == 0, path
        assert not [line for line in host.processes().values() if any(secret.decode() in line for secret in secrets)]
        assert not environments_with(host, secrets)
    assert not [file for file in shared.rglob("*") if file.is_file() and holds(file, secrets)]


def told_by(host: Host, secrets: list[bytes]) -> list[Path]:
    """The host's own files in which a secret stands."""
    own = [host.file(folder) for folder in (HOME, "/tmp", "/var/tmp", "/run", "/dev/shm", "/var/log")]
    files = (Path(where) / name for folder in own for where, _, names in os.walk(folder) for name in names)
    return [file for file in files if file.is_file() and holds(file, secrets)]


def holds(file: Path, secrets: list[bytes]) -> bool:
    with contextlib.suppress(OSError):
        data = file.read_bytes()
        return any(secret in data for secret in secrets)
    return False


def environments_with(host: Host, secrets: list[bytes]) -> list[Path]:
    return [file for file in host.file("/proc").glob("[0-9]*/environ") if holds(file, secrets)]


def test_a_host_that_is_cut_off_is_noticed_and_comes_back(person: Person) -> None:
    lost = person.hosts.all[2]
    cut = time.monotonic()
    person.hosts.cut(lost)
    while state_of(person, lost) != "dead":
        assert time.monotonic() - cut < 15
    told = person.says("status")
    assert told.returncode == 3
    assert f"{lost.address}" in told.stdout
    assert "not whole" in told.stdout
    person.hosts.mend(lost)
    person.gets("up")
    assert state_of(person, lost) == "alive"


def state_of(person: Person, host: Host) -> str:
    nodes = json.loads(person.gets("nodes", "--json"))
    return next("alive" if node["alive"] else "dead" for node in nodes if node["address"] == host.address)


def test_a_keeper_that_is_killed_leaves_nothing_that_stays(person: Person) -> None:
    """Whatever is killed, `up` makes the cluster whole again."""
    host = person.hosts.all[1]
    keeper = json.loads(host.file(HOME / ".orchestrator/clusters/walked/ray.json").read_text())["pid"]
    host.run(["kill", "-9", str(keeper)], check=True)
    assert person.says("status").returncode == 3
    person.gets("up")
    assert len([line for line in host.processes().values() if "raylet/raylet" in line]) == 1


def test_down_leaves_nothing(person: Person, before: dict[str, tuple[set[str], str]], shared: Path) -> None:
    told = person.gets("down")
    assert "Kept: MLflow's records, in" in told
    records = person.hosts.all[0].file(HOME / ".orchestrator/mlflow/walked/mlflow.db")
    assert records.is_file()
    assert "Nothing was up." in person.gets("down", "--delete-records")
    assert not records.exists()
    assert person.says("status").returncode == 3
    for host in person.hosts.all:
        files, rules = before[host.name]
        assert files_of(host, shared) - files == set()
        assert rules_of(host) == rules
        assert host.processes() == {}
    assert not person.hosts.laptop.file(HOME / ".orchestrator").exists()
    assert not [name for name in os.listdir(person.hosts.laptop.file("/tmp")) if name.startswith("orch-ssh")]  # noqa: PTH208
