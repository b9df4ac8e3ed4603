"""Whatever dies or goes away, MLflow has each point once in the end: of every run, metric and step."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from orchestrator.cli.verbs.runs import runs as runs_command
from orchestrator.config.schema import Tracking
from orchestrator.errors import PlanError, TrackingError
from orchestrator.foundation.storage import open_store
from orchestrator.records.events import METRICS, EventWriter
from orchestrator.records.runs import RunRecord, Status, load
from orchestrator.records.spool import Spool
from orchestrator.tracking.sink import MlflowSink
from orchestrator.tracking.store import resolve_uri
from orchestrator.tracking.sync import sync
from tests.integration.flaky import FlakyWay, Mode
from tests.integration.tracking.recording import (
    REAL_MLFLOW,
    START_S,
    MlflowService,
    assert_each_once,
    begin_attempt,
    connect,
    frozen,
    make_run,
    metrics_event,
    steps_of,
    until,
    write,
)

pytestmark = [pytest.mark.matrix(3), *REAL_MLFLOW]
ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("ORCHESTRATOR_TEST_KILLS", "6"))
"""Random moments at which processes are killed."""
COLD_S = 90.0
"""A server that has only just started may fail a few requests of impatient clients on a busy machine."""
NAMES = ("train/loss", "train/lr", "train/grad_norm")


@pytest.fixture
def way(mlflow_service: MlflowService) -> Iterator[FlakyWay]:
    way = FlakyWay(mlflow_service.port)
    yield way
    way.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, mlflow_environment: None) -> None:
    """Requests are given up soon, so that outages show soon."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")


class Writer:
    """A worker that goes on writing, come what may, until it is left."""

    def __init__(self, record: RunRecord) -> None:
        self._spool = Spool(EventWriter(open_store(record.root), "rank-0", record.attempts[-1].number))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.step = 0
        self.slowest = 0.0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._spool.close()

    def _run(self) -> None:
        while not self._over.is_set():
            self.step += 1
            begun = time.perf_counter()
            self._spool.emit(METRICS, self.step, metrics=dict.fromkeys(NAMES, 1.0 / self.step))
            self.slowest = max(self.slowest, time.perf_counter() - begun)
            time.sleep(0.002)


def end(record: RunRecord, status: Status = Status.finished) -> None:
    """Its driver wrote down that it ended, here."""
    record.status = record.attempts[-1].status = status
    record.attempts[-1].host, record.attempts[-1].ended = socket.gethostname(), START_S + 9000
    record.save()


def begin_here(record: RunRecord, pid: int) -> None:
    """A further attempt, now and here."""
    begin_attempt(record, len(record.attempts) + 1)
    attempt = record.attempts[-1]
    attempt.started, attempt.host, attempt.pid = time.time(), socket.gethostname(), pid
    record.status = Status.running
    record.save()


@pytest.mark.parametrize("mode", ["500", "unanswered", "slow", "refused"])
def test_after_an_outage_each_point_is_there_once(tmp_path: Path, way: FlakyWay, impatient: None, mode: Mode) -> None:
    record, plan = make_run(tmp_path, f"digits-{mode}")
    store = resolve_uri(way.uri, str(tmp_path))
    sink = MlflowSink(Tracking(timeout_s=30), store, record, plan)
    run_id = sink.start()
    with Writer(record) as writer:
        until(lambda: sink.forwarder.sent > 100, COLD_S)
        way.set(mode)
        until(lambda: sink.problem)
        time.sleep(1.5)
        sent = sink.forwarder.sent
        way.set("pass")
        until(lambda: sink.forwarder.sent > sent)
    assert sink.finish(Status.finished) == []
    assert writer.slowest < 0.5
    assert mode == "refused" or way.seen[mode]
    assert_each_once(store, run_id, writer.step, NAMES)


def test_after_a_server_was_frozen_each_point_is_there_once(
    tmp_path: Path, mlflow_service: MlflowService, impatient: None
) -> None:
    record, plan = make_run(tmp_path, "digits-frozen")
    store = resolve_uri(mlflow_service.uri, str(tmp_path))
    sink = MlflowSink(Tracking(timeout_s=30), store, record, plan)
    run_id = sink.start()
    with Writer(record) as writer:
        until(lambda: sink.forwarder.sent > 100, COLD_S)
        with frozen(mlflow_service.process):
            until(lambda: sink.problem)
            sent = sink.forwarder.sent
            time.sleep(2)
        until(lambda: sink.forwarder.sent > sent)
    assert sink.finish(Status.finished) == []
    assert_each_once(store, run_id, writer.step, NAMES)


def test_an_outage_that_outlasts_the_run_is_made_good_by_sync(
    tmp_path: Path, way: FlakyWay, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, plan = make_run(tmp_path)
    store = resolve_uri(way.uri, str(tmp_path))
    sink = MlflowSink(Tracking(timeout_s=30), store, record, plan)
    record.mlflow_run_id, record.tracking_uri = sink.start(), store.shown
    with Writer(record) as writer:
        until(lambda: sink.forwarder.sent)
        way.set("refused")
    record.store.append("logs/rank-0.log", "hello\n")
    end(record)
    begun = time.monotonic()
    notes = sink.conclude(Status.finished, print)
    assert time.monotonic() - begun < 45
    assert "does not have all metrics" in notes[0]
    command = f"orchestrator runs sync digits-1 --storage {tmp_path}"
    assert command in notes[-1]

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(runs_command, [*arguments, "--storage", str(tmp_path)])

    assert "digits-1 is incomplete" in call().output
    shown = call("show", "digits-1").output
    assert command in shown
    assert "metrics, the end in MLflow" in shown
    monkeypatch.setattr("orchestrator.tracking.sync.PATIENCE_S", 1.0)
    failed = call("sync", "digits-1")
    assert isinstance(failed.exception, TrackingError)
    assert call("sync", "--all").exit_code == 3

    way.set("pass")
    [done] = json.loads(call("sync", "--all", "--json").stdout)
    assert done["complete"]
    assert done["lacked"] == ["metrics", "the end"]
    assert done["sent"] > 0
    run = connect(store).get_run(record.mlflow_run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", int((START_S + 9000) * 1000))
    assert [file.path for file in connect(store).list_artifacts(run.info.run_id, "logs")] == ["logs/rank-0.log"]
    assert_each_once(store, record.mlflow_run_id, writer.step, NAMES)
    assert "Nothing is lacking" in call("sync", "--all").output
    assert "nothing is lacking" in call("sync", "digits-1").output
    assert "incomplete" not in call().output
    assert "sync" not in call("show", "digits-1").output


def test_a_worker_killed_at_any_moment_loses_nothing_that_it_was_told_is_kept(storage: Path) -> None:
    record, _ = make_run(storage)
    record.attempts.clear()
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    acknowledged = 0
    for number in range(1, KILLS + 1):
        first = acknowledged - acknowledged % 50 + 1  # as a run resumed from its newest checkpoint computes steps again
        command = [sys.executable, "-m", "tests.integration.victims", "write", record.root, str(number), str(first)]
        worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        begin_here(record, worker.pid)
        assert worker.stdout
        acknowledged = int(worker.stdout.readline())
        with pytest.raises(PlanError, match="being trained"):
            sync(record, print)
        time.sleep(moments.uniform(0, 0.2))
        worker.kill()
        last = [int(line) for line in worker.communicate()[0].split()]
        acknowledged = max([acknowledged, *last])
    assert json.loads(CliRunner().invoke(runs_command, ["--storage", str(storage), "--json"]).output)[0]["lacking"]
    result = sync(record, print)
    assert (result.complete, result.notes) == (True, []), f"seed {seed}"
    store = resolve_uri(None, str(storage))
    found = steps_of(store, result.mlflow_run_id, "train/loss")
    assert len(found) == len(set(found)), f"seed {seed}"
    assert set(range(1, acknowledged + 1)) <= set(found), f"seed {seed}"
    assert sorted(found) == list(range(1, max(found) + 1))
    assert sorted(steps_of(store, result.mlflow_run_id, "train/attempt")) == sorted(found)
    run = connect(store).get_run(result.mlflow_run_id)
    assert run.info.status == "FAILED"
    assert load(str(storage), record.id).mlflow_run_id == result.mlflow_run_id
    assert sync(record, print).lacked == []


@pytest.mark.parametrize("over", ["sqlite", "http"])
def test_a_forwarder_killed_at_any_moment_leaves_each_point_once(
    storage: Path, over: str, mlflow_service: MlflowService
) -> None:
    record, _ = make_run(storage, f"digits-over-{over}")
    last = 1000 * max(KILLS, 6)
    for start in range(1, last + 1, 500):
        lines = [
            metrics_event(step, **{name.replace("/", "__"): 1.0 / step for name in NAMES}).to_line()
            for step in range(start, start + 500)
        ]
        record.store.append("events/rank-0.jsonl", "".join(lines))
    end(record)
    uri = mlflow_service.uri if over == "http" else resolve_uri(None, str(storage)).uri
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    command = [sys.executable, "-m", "tests.integration.victims", "forward", record.root, uri]
    nursery = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert nursery.stdin
    assert nursery.stdout
    try:
        for _ in range(KILLS):
            nursery.stdin.write("another\n")
            nursery.stdin.flush()
            victim = psutil.Process(int(nursery.stdout.readline()))
            time.sleep(moments.uniform(0.05, 0.8))
            victim.kill()
    finally:
        nursery.stdin.close()
        nursery.wait(10)
        nursery.stdout.close()
    record.tracking_uri = uri
    result = sync(record, print)
    assert (result.complete, result.notes) == (True, []), f"seed {seed}"
    store = resolve_uri(uri, str(storage))
    assert_each_once(store, result.mlflow_run_id, last, NAMES)
    experiments = [experiment.experiment_id for experiment in connect(store).search_experiments()]
    mark = f"attributes.run_name = '{record.id}' and attributes.start_time = {int(START_S * 1000)}"
    assert len(connect(store).search_runs(experiments, mark)) == 1, f"seed {seed}: a run was made twice"


def test_a_driver_that_was_given_up_sends_nothing_more(storage: Path) -> None:
    record, plan = make_run(storage)
    store = resolve_uri(None, str(storage))
    sink = MlflowSink(Tracking(), store, record, plan)
    run_id = sink.start()
    write(record, metrics_event(1, loss=1.0))
    assert sink.forwarder.flush(10)
    newer = load(str(storage), record.id)
    begin_attempt(newer, 2)
    write(record, metrics_event(2, moment=START_S + 5000, loss=666.0))
    begun = time.monotonic()
    assert not sink.forwarder.flush(10)
    [note] = sink.finish(Status.failed, {})
    assert time.monotonic() - begun < 3
    assert "later attempt" in note
    assert steps_of(store, run_id, "loss") == [1]
    assert connect(store).get_run(run_id).info.status == "RUNNING"


def test_points_of_a_deleted_run_wait_until_it_is_restored(storage: Path) -> None:
    record, plan = make_run(storage)
    store = resolve_uri(None, str(storage))
    sink = MlflowSink(Tracking(), store, record, plan)
    run_id = sink.start()
    connect(store).delete_run(run_id)
    write(record, metrics_event(1, loss=1.0))
    until(lambda: "was deleted" in sink.problem)
    connect(store).restore_run(run_id)
    assert sink.finish(Status.finished) == []
    assert steps_of(store, run_id, "loss") == [1]


def test_a_run_that_mlflow_has_no_more_is_made_anew_with_all_its_points(storage: Path) -> None:
    record, plan = make_run(storage)
    store = resolve_uri(None, str(storage))
    write(record, *(metrics_event(step, loss=1.0) for step in range(1, 4)))
    sink = MlflowSink(Tracking(), store, record, plan)
    record.mlflow_run_id = sink.start()
    assert sink.finish(Status.finished, {}) == []
    end(record)
    connect(store)._tracking_client.store._hard_delete_run(record.mlflow_run_id)
    write(record, metrics_event(4, loss=1.0))
    result = sync(record, print)
    assert result.mlflow_run_id != sink.run_id
    assert_each_once(store, result.mlflow_run_id, 4, ("loss",))


def test_a_run_trained_without_tracking_can_be_recorded_later(storage: Path) -> None:
    record, plan = make_run(storage)
    plan.spec["tracking"] = {"enabled": False}
    record.store.write("plan.json", plan.to_json())
    write(record, *(metrics_event(step, loss=1.0) for step in range(1, 4)))
    end(record)
    assert (
        json.loads(CliRunner().invoke(runs_command, ["--storage", str(storage), "--json"]).output)[0]["lacking"] == []
    )
    result = sync(record, print)
    assert (result.sent, result.complete) == (3, True)
    assert_each_once(resolve_uri(None, str(storage)), result.mlflow_run_id, 3, ("loss",))
