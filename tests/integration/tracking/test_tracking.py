"""Recording a run in a real MLflow: over SQLite, over its own server, and over one that dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy
import psutil
import pytest

from orchestrator.config.schema import Tracking
from orchestrator.errors import TrackingError
from orchestrator.foundation.formats import FORMAT
from orchestrator.plans.types import Plan
from orchestrator.records import runs
from orchestrator.records.events import FINISHED, NOTE, Event
from orchestrator.records.runs import Attempt, Status
from orchestrator.tracking.sink import MlflowSink
from orchestrator.tracking.store import prepare, resolve_uri
from tests.integration.tracking.recording import (
    REAL_MLFLOW,
    START_S,
    begin_attempt,
    connect,
    free_port,
    make_plan,
    make_run,
    metrics_event,
    mlflow_server,
    running,
    write,
)

pytestmark = REAL_MLFLOW


def test_further_attempts_of_one_driver_are_one_run(storage):
    record, plan = make_run(storage)
    sink = MlflowSink(Tracking(), resolve_uri(None, str(storage)), record, plan)
    run_id = sink.start()
    write(record, *(metrics_event(step, train__loss=1.0 / step) for step in range(1, 6)))
    second = Attempt(number=2, started=START_S + 2000, world_size=1, host="here", pid=1)
    record.attempts.append(second)
    sink.next_attempt()
    record.save()
    write(record, metrics_event(5, attempt=1, moment=START_S + 2500, train__loss=666.0))
    write(record, *(metrics_event(n, attempt=2, moment=START_S + 2600 + n, train__loss=1.0 / n) for n in range(4, 9)))
    assert sink.finish(Status.finished) == []
    client = connect(resolve_uri(None, str(storage)))
    points = {point.step: point.value for point in client.get_metric_history(run_id, "train/loss")}
    assert points == {step: 1.0 / step for step in range(1, 9)}
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["orchestrator.attempt"]) == ("FINISHED", "2")
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_a_run_is_recorded_whole(storage, capfd):
    record, plan = make_run(storage)
    store = resolve_uri(None, str(storage))
    sink = MlflowSink(Tracking(tags={"team": "vision"}), store, record, plan)
    run_id = sink.start()
    expected = {}
    for step in range(1, 1501):
        value = 1.0 / step
        expected[step] = value
        write(record, metrics_event(step, train__loss=value, train__lr=0.1))
    write(record, metrics_event(1500, val__accuracy=float("nan")))
    write(record, Event(kind=NOTE, time=START_S, attempt=1, data={"message": "not a metric"}))
    last = {"metrics": {"train/loss": 9.0, "test/f1": 0.5}}
    write(record, Event(kind=FINISHED, time=START_S + 9000, attempt=1, step=1500, data=last))
    (storage / "rank-0.log").write_text("hello\n")
    notes = sink.finish(Status.finished, {"rank-0.log": storage / "rank-0.log", "rank-1.log": "there\n"})

    assert notes == []
    client = connect(store)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "digits"
    assert (run.info.run_name, run.info.status) == ("digits-1", "FINISHED")
    assert run.info.start_time == int(START_S * 1000)
    assert run.data.params["job.seed"] == "7"
    assert run.data.params["optimizer.betas"] == "[0.9, 0.999]"
    assert len(run.data.params) == 250 + 8
    history = client.get_metric_history(run_id, "train/loss")
    assert {point.step: point.value for point in history} == expected
    assert history[0].timestamp == int((START_S + 1002) * 1000)
    assert len(client.get_metric_history(run_id, "train/lr")) == 1500
    assert numpy.isnan(client.get_metric_history(run_id, "val/accuracy")[0].value)
    assert run.data.metrics["test/f1"] == 0.5
    tags = run.data.tags
    assert tags["team"] == "vision"
    assert tags["orchestrator.run_id"] == "digits-1"
    assert tags["orchestrator.plan_digest"] == plan.digest
    assert (tags["strategy"], tags["world_size"], tags["orchestrator.attempt"]) == ("zero2", "2", "1")
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(storage / "mlflow" / "artifacts")
    assert Plan.from_json((folder / "plan/plan.json").read_text()) == plan
    assert json.loads((folder / "plan/deepspeed.json").read_text()) == {"train_batch_size": 64}
    assert (folder / "plan/config.yaml").is_file()
    assert (folder / "logs/rank-0.log").read_text() == "hello\n"
    assert (folder / "logs/rank-1.log").read_text() == "there\n"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_new_store_is_made_once_by_two_processes_and_has_a_write_ahead_log(tmp_path):
    code = (
        "import sys; from orchestrator.tracking.store import *; s = resolve_uri(None, sys.argv[1]); prepare(s, 15);"
        "from mlflow import MlflowClient; print(len(MlflowClient(s.uri).search_experiments()))"
    )
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "1\n", "")
    database = tmp_path / "mlflow/mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not list(database.parent.glob(".*new"))


def test_an_older_schema_of_ours_is_brought_up_to_date_and_kept_beside(storage):
    store = resolve_uri(None, str(storage))
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    from orchestrator.tracking import sqlite

    head = sqlite.revision(store.database)
    config = _get_alembic_config(store.uri)
    from alembic.script import ScriptDirectory

    older = ScriptDirectory.from_config(config).get_revision("head").down_revision
    with contextlib.closing(sqlite3.connect(store.database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
    with pytest.raises(TrackingError, match="could not be brought up to date"):
        prepare(store, 15)
    with contextlib.closing(sqlite3.connect(store.database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (head,))
    command.stamp(config, older)
    with pytest.raises(TrackingError, match="mlflow db upgrade"):
        prepare(replace(store, ours=False), 15)
    command.stamp(config, head)
    prepare(store, 15)
    assert sqlite.is_current(store.database, sqlite._mlflow_version())
    assert list(store.database.parent.glob("mlflow.db.before-*"))


def test_resume_goes_on_with_the_same_mlflow_run(storage):
    record, plan = make_run(storage)
    store = resolve_uri(None, str(storage))
    first = MlflowSink(Tracking(), store, record, plan)
    record.mlflow_run_id = first.start()
    write(record, metrics_event(1, loss=1.0))
    first.finish(Status.failed)
    assert connect(store).get_run(record.mlflow_run_id).info.status == "FAILED"

    begin_attempt(record, 2)
    second = MlflowSink(Tracking(), store, record, plan)
    assert second.start() == record.mlflow_run_id
    assert connect(store).get_run(record.mlflow_run_id).info.status == "RUNNING"
    write(record, metrics_event(1, attempt=2, moment=START_S + 5000, loss=1.0))
    write(record, metrics_event(2, attempt=1, moment=START_S + 5000, loss=666.0))
    write(record, metrics_event(2, attempt=2, moment=START_S + 5000, loss=0.5))
    second.finish(Status.stopped)

    run = connect(store).get_run(record.mlflow_run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags["orchestrator.attempt"] == "2"
    history = connect(store).get_metric_history(record.mlflow_run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]


def test_a_dead_server_is_told_before_training(tmp_path):
    record, plan = make_run(tmp_path)
    store = resolve_uri(f"http://127.0.0.1:{free_port()}", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(TrackingError, match="tracking=off"):
        MlflowSink(Tracking(timeout_s=3), store, record, plan).start()
    assert time.monotonic() - begun < 3


def test_something_else_on_that_port_is_told_quickly(tmp_path):
    """A server that answers, and is not MLflow."""
    port = free_port()
    with running([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], port, "/", tmp_path):
        record, plan = make_run(tmp_path)
        store = resolve_uri(f"http://127.0.0.1:{port}", str(tmp_path))
        sink = MlflowSink(Tracking(timeout_s=10), store, record, plan)
        with pytest.raises(TrackingError, match=f"127.0.0.1:{port}"):
            sink.start()


def test_a_deleted_experiment_is_told(storage):
    record, plan = make_run(storage)
    store = resolve_uri(None, str(storage))
    client = connect(store)
    client.delete_experiment(client.create_experiment("digits"))
    with pytest.raises(TrackingError, match="was deleted"):
        MlflowSink(Tracking(), store, record, plan).start()


def test_training_goes_on_when_the_server_dies(storage, tmp_path):
    port = free_port()
    command = mlflow_server(storage / "mlflow/mlflow.db", port, tmp_path / "served")
    record, plan = make_run(tmp_path / "other")
    store = resolve_uri(f"http://127.0.0.1:{port}", str(tmp_path))
    sink = MlflowSink(Tracking(timeout_s=30), store, record, plan)
    with running(command, port, "/health", tmp_path):
        run_id = sink.start()
        write(record, metrics_event(1, loss=1.0))
        assert sink.forwarder.flush(30)
    assert (tmp_path / "served").is_dir()
    write(record, *(metrics_event(step, loss=0.5) for step in range(2, 102)))
    begun = time.monotonic()
    notes = sink.finish(Status.finished, {"rank-0.log": "hello"}, timeout_s=6)
    assert time.monotonic() - begun < 15
    assert "does not have all metrics" in notes[0]
    assert "orchestrator runs sync digits-1" in notes[-1]
    assert f"127.0.0.1:{port}" in notes[0]
    assert record.root in notes[0]
    assert sink.problem

    with running(command, port, "/health", tmp_path):
        record.mlflow_run_id = run_id
        again = MlflowSink(Tracking(timeout_s=30), store, record, plan)
        again.start()
        assert again.finish(Status.finished) == []
        history = connect(store).get_metric_history(run_id, "loss")
        assert [point.step for point in history] == list(range(1, 102))


def test_the_final_model_comes_back_from_mlflow_and_holds_no_pickle(storage, tmp_path, monkeypatch):
    import torch
    from mlflow import pyfunc
    from safetensors.torch import save_file

    from orchestrator.models.pyfunc import load

    plan = digits_plan(storage)
    torch.manual_seed(0)
    model = build(plan).eval()
    images = torch.randn(5, 1, 8, 8)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    description = {
        "format": FORMAT,
        "task": plan.task,
        "spec": plan.spec,
        "inputs": [{"name": "input", "dtype": "float32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": [-1, 10]}],
        "step": 2,
        "metrics": {"val/loss": 0.5, "never/recorded": 1.0},
    }
    (folder / "model.json").write_text(json.dumps(description))

    record = runs.create(plan, "digits-1", clock=lambda: START_S)
    store = resolve_uri(None, str(storage))
    sink = MlflowSink(Tracking(), store, record, plan)
    run_id = sink.start()
    write(record, metrics_event(1, val__loss=0.7), metrics_event(2, val__loss=0.5))
    sink.log_model(folder)
    assert sink.finish(Status.finished) == []

    client = connect(store)
    run = client.get_run(run_id)
    [output] = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.name, logged.source_run_id, str(logged.status)) == ("model", run_id, "READY")
    assert [(metric.key, metric.value) for metric in logged.metrics] == [("val/loss", 0.5)]
    assert len(client.get_metric_history(run_id, "val/loss")) == 2
    place = Path(logged.artifact_location.removeprefix("file://"))
    names = [path.name for path in place.rglob("*") if path.is_file()]
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    assert "orchestrator" not in (place / "requirements.txt").read_text()

    with torch.no_grad():
        expected = model(images).numpy()
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    loaded = pyfunc.load_model(str(place))
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    numpy.testing.assert_array_equal(loaded.predict(images.numpy()), expected)
    ours = load(folder)
    numpy.testing.assert_array_equal(ours.predict(images), expected)
    numpy.testing.assert_array_equal(ours.predict(images.double().numpy()), expected)
    assert not ours.module.training


def test_a_model_that_cannot_be_recorded_becomes_a_note(storage, tmp_path):
    record, plan = make_run(storage)
    sink = MlflowSink(Tracking(), resolve_uri(None, str(storage)), record, plan)
    sink.start()
    sink.log_model(tmp_path / "nothing")
    note, hint = sink.finish(Status.finished)
    assert "final model" in note
    assert "runs sync" in hint


def digits_plan(storage: Path) -> Plan:
    import yaml

    from orchestrator import paths

    node = yaml.safe_load((paths.shipped_conf() / "model/small_resnet.yaml").read_text())
    data = yaml.safe_load((paths.shipped_conf() / "data/digits.yaml").read_text())
    plan = make_plan(storage)
    return replace(plan, spec={**plan.spec, "model": node, "data": data})


def build(plan: Plan):
    from orchestrator.config.targets import targets

    return targets.bind(plan.spec).task().build_model()


def test_a_server_that_stalls_after_its_greeting_is_told_in_time(tmp_path):
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Stalling(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/health":
                time.sleep(5)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    record, plan = make_run(tmp_path)
    sink = MlflowSink(
        Tracking(timeout_s=1), resolve_uri(f"http://127.0.0.1:{server.server_port}", str(tmp_path)), record, plan
    )
    begun = time.monotonic()
    with pytest.raises(TrackingError, match="within 1 s"):
        sink.start()
    assert time.monotonic() - begun < 4
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ui_serves_the_recorded_runs_and_ends_quietly(storage, how):
    record, plan = make_run(storage)
    sink = MlflowSink(Tracking(), resolve_uri(None, str(storage)), record, plan)
    run_id = sink.start()
    sink.finish(Status.finished)
    port = free_port()
    command = [sys.executable, "-m", "orchestrator.cli.main", "ui", "--storage", str(storage), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--no-open"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[1:] == [f"MLflow: http://127.0.0.1:{port}\n", "Ctrl-C ends it.\n"]
        url = f"http://127.0.0.1:{port}/get-artifact?run_uuid={run_id}&path=plan/plan.json"
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert Plan.from_json(answer.read().decode()) == plan
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
        assert psutil.wait_procs(started, timeout=10)[1] == []
        with pytest.raises(OSError):
            urllib.request.urlopen(url, timeout=2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
