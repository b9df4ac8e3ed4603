"""Runs in an S3 bucket, on a real S3 server of this machine: train, stop, die, resume, list."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from orchestrator import paths
from orchestrator.cli.main import main
from orchestrator.errors import RunFailedError, RunStoppedError, StorageError
from orchestrator.foundation.storage import Store, open_store
from orchestrator.records import events, runs
from orchestrator.records.events import Event
from orchestrator.records.runs import RunRecord, Status
from orchestrator.runtime.driver import driver
from orchestrator.runtime.launchers.ray.launcher import RayLauncher
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from tests.integration.training import Recorder, carry_out, curve, plan_of, spec_of
from tests.unit.foundation import test_storage

pytestmark = [pytest.mark.matrix(3), pytest.mark.usefixtures("forked_workers")]

SMALL = [
    "job=digits",
    "model.width=8",
    "model.blocks=1",
    "job.epochs=null",
    "batch=32",
    "accumulation=2",
    "cluster.workers=2",
    "strategy=zero1",
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, and a project folder to work in; workers find the server as we do, by the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    fsspec.filesystem("s3").clear_instance_cache()
    files.mkdir("bucket")
    yield "s3://bucket"
    files.rm("bucket", recursive=True)


@pytest.fixture
def storage(bucket: str) -> str:
    return f"{bucket}/team/runs"


def go_on(record: RunRecord, storage: str, view: Recorder | None = None) -> RunRecord:
    again = runs.load(storage, record.id)
    return driver.carry_out(again, again.plan, spec_of(again.plan), view or Recorder())


def on(kind: str, step: int, do: Callable[[], object]) -> Recorder:
    """A view that does something when an event comes."""

    def act(event: Event) -> None:
        if (event.kind, event.step) == (kind, step):
            do()

    return Recorder(act=act)


class TestS3(test_storage.StoreContract):
    @pytest.fixture
    def store(self, storage: str) -> Store:
        return open_store(storage)

    def test_a_misspelt_bucket_is_told_and_not_made(self) -> None:
        store = open_store("s3://buckte/runs")
        with pytest.raises(StorageError, match=r"Cannot write s3://buckte/runs: The specified bucket does not exist\."):
            store.check_writable()
        assert not fsspec.filesystem("s3").exists("buckte")

    def test_missing_keys_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(StorageError, match=r"Cannot write s3://bucket/runs: Unable to locate credentials\."):
            open_store("s3://bucket/runs").check_writable()


def test_a_training_keeps_everything_in_the_bucket(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    view = Recorder()
    plan = plan_of(
        *SMALL,
        f"storage.path={storage}",
        "job.steps=6",
        "job.evaluate={steps: 3, epochs: null}",
        "tracking.system_metrics=true",
        "checkpoint.keep=1",
    )
    record = carry_out(plan, view)
    assert record.status is Status.finished
    kinds = [event.kind for event in view.events if event.kind != events.METRICS]
    assert [*kinds[:2], kinds[-1]] == [events.PLACED, events.STARTED, events.FINISHED]
    assert kinds.count(events.EVALUATED) == 3
    assert list(curve(record)) == [1, 2, 3, 4, 5, 6]
    assert curve(record, "system/node-0/memory_used_gb") == {}, "system metrics have no step"
    assert any("system/node-0/memory_used_gb" in event.data.get("metrics", {}) for event in view.events)
    store = record.store
    assert record.last_checkpoint == "step-00000006-a1"
    checkpoint = store.list(f"{paths.CHECKPOINTS}/{record.last_checkpoint}")
    assert checkpoint == sorted(
        [
            "SHA256SUMS",
            "manifest.json",
            *(f"rank-0000{rank}.{kind}" for rank in (0, 1) for kind in ("json", "safetensors")),
        ]
    )
    assert store.list(paths.MODEL) == ["model.json", "model.safetensors"]
    assert store.list(paths.LOGS) == ["rank-0.log", "rank-1.log"]
    assert not Path("s3:").exists()
    assert main(["runs", "--storage", storage]) == 0
    assert record.id in capsys.readouterr().out
    assert main(["runs", "show", "last", "--storage", storage, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"


def test_a_killed_run_resumes_from_the_bucket_to_the_bit(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    every = "checkpoint.every={steps: 4, epochs: null}"
    options = [*SMALL, "job.steps=40", "model.dropout=0.1", every, "resilience=off"]
    undisturbed = carry_out(plan_of(*options))
    monkeypatch.setattr(driver, "REMOTE_LOOK_S", 0.05)
    launcher = TorchrunLauncher()
    plan = plan_of(*options, f"storage.path={storage}")
    record = runs.create(plan)
    # What an attempt that died before leaves: files of a checkpoint that was never committed.
    record.store.write(f"{paths.CHECKPOINTS}/step-00000040-a1/rank-00007.safetensors", "torn")
    with pytest.raises(RunFailedError):
        driver.carry_out(record, plan, spec_of(plan), on(events.CHECKPOINT, 4, launcher.kill), launcher)
    assert runs.load(storage, record.id).status is Status.failed
    shown = Recorder()
    resumed = go_on(record, storage, shown)
    assert resumed.status is Status.finished
    started = next(event for event in shown.events if event.kind == events.STARTED)
    assert started.step in range(4, 40, 4)
    shards = record.store.list(f"{paths.CHECKPOINTS}/{resumed.last_checkpoint}")
    assert not [name for name in shards if "rank-00007" in name]
    assert curve(resumed) == curve(undisturbed)


def test_a_stopped_run_resumes_from_the_bucket(storage: str) -> None:
    endless = ["job.steps=4000", "job.evaluate.epochs=null", "resilience=off"]
    plan = plan_of(*SMALL, f"storage.path={storage}", *endless)
    record = runs.create(plan)
    view = on(events.STARTED, 0, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(RunStoppedError, match=r"Saved at step \d+ and stopped\. .*--storage s3://bucket/team/runs"):
        driver.carry_out(record, plan, spec_of(plan), view)
    assert 0 < record.step < 4000
    assert runs.load(storage, record.id).last_checkpoint == f"step-{record.step:08d}-a1"
    launcher = TorchrunLauncher()
    again = runs.load(storage, record.id)
    shown = on(events.STARTED, record.step, launcher.kill)
    with pytest.raises(RunFailedError):
        driver.carry_out(again, again.plan, spec_of(again.plan), shown, launcher)
    assert [event.step for event in shown.events if event.kind == events.STARTED] == [record.step]


def test_a_bug_in_the_task_is_told_and_its_log_is_in_the_bucket(storage: str) -> None:
    plan = plan_of(*SMALL, f"storage.path={storage}", "job.steps=3", "job.monitor.metric=acuracy")
    record = runs.create(plan)
    with pytest.raises(RunFailedError, match=r"job.monitor.metric=acuracy is not a metric of this task"):
        driver.carry_out(record, plan, spec_of(plan), Recorder())
    log, _ = record.store.tail(paths.worker_log(0))
    assert "ConfigError: job.monitor.metric=acuracy" in log
    assert list(curve(record)) == [1, 2, 3], "what was measured before is kept"


def test_workers_of_ray_keep_all_in_the_bucket_too(storage: str) -> None:
    """On a Ray of its own, which knows the keys of this environment; nodes of a cluster have to know theirs."""
    record = carry_out(plan_of(*SMALL, f"storage.path={storage}", "job.steps=2"), launcher=RayLauncher(None))
    assert record.status is Status.finished
    assert record.store.exists(paths.MODEL)
    assert not Path("s3:").exists()
