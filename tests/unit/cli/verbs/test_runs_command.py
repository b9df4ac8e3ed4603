"""`orchestrator runs`: lists, shows and compares what lies in run storage."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from orchestrator import paths
from orchestrator.cli.verbs.runs import runs as command
from orchestrator.cli.views.runs import RunReport, ago, number, sparkline
from orchestrator.errors import ConfigError, PlanError, UnknownRunError
from orchestrator.records import events, runs
from orchestrator.records.runs import Attempt, Status
from orchestrator.tracking.ledger import Ledger
from tests.records import plan_with


def make_plan(storage, **optimizer):
    job = {"name": "digits", "monitor": {"metric": "accuracy", "mode": "max"}}
    return plan_with(storage, {"job": job, "optimizer": {"lr": 0.1, **optimizer}})


def make_run(storage, run_id, *, created=1000.0, status=Status.finished, metrics=None, pid=None, **optimizer):
    record = runs.create(make_plan(storage, **optimizer), run_id, clock=lambda: created)
    record.status = status
    record.step = 12
    record.final_metrics = metrics or {}
    attempt = Attempt(number=1, started=1000, world_size=2, host=socket.gethostname(), pid=pid or os.getpid())
    attempt.ended = None if status is Status.running else 1090
    attempt.status = status
    record.attempts = [attempt]
    record.save()
    return record


def call(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_no_runs_says_how_to_start_one(tmp_path):
    assert "orchestrator train" in call("--storage", tmp_path / "none")
    assert json.loads(call("--storage", tmp_path, "--json")) == []


def test_the_list_has_the_newest_first(tmp_path):
    make_run(tmp_path, "digits-old", created=1000, metrics={"val/accuracy": 0.9123456, "val/loss": 0.3})
    make_run(tmp_path, "digits-new", created=2000, status=Status.failed)
    head, new, old = call("--storage", tmp_path).splitlines()
    assert head.split() == ["run", "job", "status", "age", "strategy", "workers", "steps", "result"]
    assert new.startswith("digits-new")
    assert "failed" in new
    assert "val/accuracy 0.9123" in old
    assert "zero2" in old


def test_limit_and_status(tmp_path):
    for index in range(3):
        make_run(tmp_path, f"digits-{index}", created=1000 + index, status=Status.failed if index else Status.finished)
    assert [run["id"] for run in json.loads(call("--storage", tmp_path, "--json", "--limit", 2))] == [
        "digits-2",
        "digits-1",
    ]
    assert [run["id"] for run in json.loads(call("--storage", tmp_path, "--json", "--status", "finished"))] == [
        "digits-0"
    ]
    assert "--limit 3" in call("--storage", tmp_path, "--limit", 2)
    assert "No run" in call("--storage", tmp_path, "--status", "stopped")


def test_a_run_whose_process_is_gone_is_lost(tmp_path):
    make_run(tmp_path, "digits-1", status=Status.running, pid=2**22 + 1)
    make_run(tmp_path, "digits-2", status=Status.running)
    found = {run["id"]: run["status"] for run in json.loads(call("--storage", tmp_path, "--json"))}
    assert found == {"digits-1": "lost", "digits-2": "running"}
    assert "orchestrator resume digits-1" in call("show", "digits-1", "--storage", tmp_path)


def test_show_tells_the_cause_of_a_failure(tmp_path):
    record = make_run(tmp_path, "digits-1", status=Status.failed)
    for rank, moment, kind in ((0, 20.0, "DistBackendError"), (1, 10.0, "ZeroDivisionError")):
        failure = {
            "rank": rank,
            "time": moment,
            "type": kind,
            "message": "oh",
            "where": "x:1",
            "traceback": "T\nlast line",
        }
        record.store.write(paths.failure(1, rank), json.dumps(failure))
    output = call("show", "last", "--storage", tmp_path)
    assert "ZeroDivisionError: oh" in output
    assert "  worker 1, at x:1\n" in output
    assert "worker 0 lost the connection" in output
    assert "last line" in output
    assert f"orchestrator resume digits-1 --storage {tmp_path}" in output


def test_show_tells_the_cause_first_when_no_worker_left_one(tmp_path):
    record = make_run(tmp_path, "digits-1", status=Status.failed, metrics={"val/loss": 1.0})
    record.attempts[-1].error = "Ray cannot be reached.\nStart it with: ray start --head."
    record.save()
    lines = call("show", "last", "--storage", tmp_path).splitlines()
    at = lines.index("failure")
    assert lines[at + 1 : at + 3] == ["  Ray cannot be reached.", "    Start it with: ray start --head."]
    assert at < lines.index("results") < lines.index("files")


def test_show_tells_what_a_run_went_through(tmp_path):
    record = make_run(tmp_path, "digits-1")
    record.attempts = [
        Attempt(number=1, started=1000, world_size=2, host="a", pid=1, first_step=0, last_step=43),
        Attempt(number=2, started=1031, world_size=1, host="a", pid=1, first_step=40, last_step=156),
        Attempt(number=3, started=1044, world_size=2, host="a", pid=1),
    ]
    for attempt, status, end in zip(record.attempts, ("failed", "stopped", "failed"), (1031, 1044, 1050), strict=True):
        attempt.status, attempt.ended = Status(status), end
    record.attempts[0].error = record.attempts[1].reason = "node b went away"
    record.attempts[2].reason, record.attempts[2].error = "there is room for 2 workers", "There was no room.\nLook."
    record.save()
    told = "node b went away; went on from step 40 with 1 worker after 9 s"
    events.EventWriter(record.store, "driver", 2).emit(events.RESTART, 40, cause="lost", message=told)
    lines = call("show", "last", "--storage", tmp_path).splitlines()
    at = lines.index("attempts")
    assert lines[at + 1 : at + 6] == [
        "  1  failed    2 workers  steps 0 to 43  31s  node b went away",
        f"     {told}",
        "  2  stopped   1 worker   steps 40 to 156  13s",
        "     there is room for 2 workers",
        "  3  failed    2 workers  6s  There was no room.",
    ]
    (restart,) = json.loads(call("show", "last", "--storage", tmp_path, "--json"))["restarts"]
    assert (restart["attempt"], restart["cause"], restart["message"]) == (2, "lost", told)


def test_show_draws_the_history_of_a_running_run(tmp_path):
    record = make_run(tmp_path, "digits-1", status=Status.running)
    record.step = 0
    record.save()
    writer = events.EventWriter(record.store, "rank-0", 1)
    for step in range(1, 101):
        writer.emit(events.METRICS, step, metrics={"train/loss": 1 / step})
    writer.emit(events.METRICS, None, metrics={"system/node-0/cpu_utilization_percent": 3.0})
    output = call("show", "digits", "--storage", tmp_path)
    assert "█" in output
    assert "1 -> 0.01" in output
    assert "100 steps" in output
    assert "system/" not in output


def test_show_as_json(tmp_path):
    make_run(tmp_path, "digits-1", metrics={"val/accuracy": 0.5})
    shown = json.loads(call("--storage", tmp_path, "show", "digits-1", "--json"))
    assert shown["metrics"] == {"val/accuracy": 0.5}
    assert shown["params"]["optimizer.lr"] == "0.1"
    assert shown["next"]


def test_a_run_with_a_damaged_plan_is_still_shown(tmp_path):
    record = make_run(tmp_path, "digits-1")
    record.store.write(paths.PLAN, "{")
    assert "digits-1" in call("--storage", tmp_path)
    assert "digits-1" in call("--storage", tmp_path, "show", "last")


def test_compare_shows_only_what_differs_and_marks_the_best(tmp_path):
    make_run(tmp_path, "digits-1", lr=0.1, metrics={"val/accuracy": 0.8, "val/loss": 0.4, "odd": 1.0})
    make_run(tmp_path, "digits-2", lr=0.2, metrics={"val/accuracy": 0.9, "val/loss": 0.5, "odd": 2.0})
    lines = {
        line.split()[0]: line.split()[1:]
        for line in call("compare", "digits-1", "digits-2", "--storage", tmp_path).splitlines()
    }
    assert lines["optimizer.lr"] == ["0.1", "0.2"]
    assert lines["val/accuracy"] == ["0.8", "0.9", "*"]
    assert lines["val/loss"] == ["0.4", "*", "0.5"]
    assert lines["odd"] == ["1", "2"]
    assert "job.name" not in lines
    compared = json.loads(call("--storage", tmp_path, "compare", "digits-1", "digits-2", "--json"))
    assert compared["best"] == {"val/accuracy": "digits-2", "val/loss": "digits-1", "odd": None}


def test_comparing_a_run_with_itself_is_refused(tmp_path):
    make_run(tmp_path, "digits-1")
    with pytest.raises(ConfigError, match="twice"):
        call("--storage", tmp_path, "compare", "digits-1", "last")


def test_an_unknown_run_is_told(tmp_path):
    make_run(tmp_path, "digits-1")
    with pytest.raises(UnknownRunError, match="digits-1"):
        call("--storage", tmp_path, "show", "digit5")


def recorded(record, **ledger):
    Ledger(**{"mlflow_run_id": "abc", "delivered": True, "ended": 1, **ledger}).save(record.store)


@pytest.mark.parametrize(
    ("status", "ledger", "lacking"),
    [
        (Status.finished, {}, []),
        (Status.finished, {"delivered": False}, ["metrics"]),
        (Status.failed, {"ended": 0}, ["the end"]),
        (Status.stopped, {"delivered": False, "ended": 0}, ["metrics", "the end"]),
    ],
)
def test_what_mlflow_lacks_of_a_run_is_told(tmp_path, status, ledger, lacking):
    record = make_run(tmp_path, "digits-1", status=status)
    recorded(record, **ledger)
    assert json.loads(call("--storage", tmp_path, "--json"))[0]["lacking"] == lacking
    command = f"orchestrator runs sync digits-1 --storage {tmp_path}"
    assert (command in call("--storage", tmp_path, "show", "last")) == bool(lacking)
    assert ("digits-1 is incomplete" in call("--storage", tmp_path)) == bool(lacking)


def test_a_model_that_is_there_and_not_recorded_is_lacking(tmp_path):
    record = make_run(tmp_path, "digits-1")
    record.store.write(f"{paths.MODEL}/model.json", "{}")
    recorded(record)
    assert RunReport(record).lacking == ["the model"]
    recorded(record, model=True)
    assert RunReport(record).lacking == []


def test_nothing_is_lacking_while_a_run_is_trained_nor_when_it_never_began(tmp_path):
    running = make_run(tmp_path, "digits-1", status=Status.running)
    recorded(running, delivered=False, ended=0)
    assert RunReport(running).lacking == []
    assert RunReport(make_run(tmp_path, "digits-2", status=Status.failed)).lacking == []
    lost = make_run(tmp_path, "digits-3", status=Status.running, pid=2**22 + 1)
    recorded(lost, delivered=False, ended=0)
    assert RunReport(lost).lacking == ["metrics", "the end"]
    assert "2 of them" not in call("--storage", tmp_path)


def test_sync_wants_to_know_which(tmp_path):
    for arguments in ([], ["last", "--all"]):
        result = CliRunner().invoke(command, ["--storage", str(tmp_path), "sync", *arguments])
        assert result.exit_code == 2
        assert "Name runs, or say --all" in result.output


def test_sync_refuses_a_run_that_is_being_trained(tmp_path):
    record = make_run(tmp_path, "digits-1", status=Status.running, pid=os.getppid())
    recorded(record, delivered=False, ended=0)
    with pytest.raises(PlanError, match=f"process {os.getppid()}"):
        call("--storage", tmp_path, "sync", "last")
    assert call("--storage", tmp_path, "sync", "--all") == "Nothing is lacking.\n"


def test_sync_of_a_complete_run_needs_no_server(tmp_path):
    record = make_run(tmp_path, "digits-1")
    recorded(record)
    record.tracking_uri = "http://127.0.0.1:9"
    record.save()
    assert call("--storage", tmp_path, "sync", "last") == (
        "digits-1: nothing is lacking in MLflow at http://127.0.0.1:9\n"
    )


def test_words():
    assert [ago(seconds) for seconds in (5, 65, 3600, 90000)] == ["5s", "1m 5s", "1h", "1d 1h"]
    assert [number(value) for value in (0.123456, 27773.4, 3.0, 1.2e-7, float("nan"), float("inf"))] == [
        "0.1235",
        "27773",
        "3",
        "1.2e-07",
        "nan",
        "inf",
    ]
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, float("nan"), 2.0]) == "▁ █"
    assert len(sparkline([float(index) for index in range(1001)])) <= 40


def test_it_imports_nothing_heavy():
    code = "import sys, orchestrator.cli.verbs.runs, orchestrator.cli.verbs.ui; print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("'mlflow'", "'torch'", "'hydra'", "'ray'"):
        assert heavy not in modules
