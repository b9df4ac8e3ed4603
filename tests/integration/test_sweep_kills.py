"""Sweeps that are killed and stopped, and go on: every trial ends once, in the ledger and in MLflow."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.sweep import record
from orchestrator.sweep.ledger import ENDED, Book, State
from orchestrator.sweep.report import Report
from orchestrator.tracking.store import resolve_uri
from tests.integration.recording import connect
from tests.integration.sweeping import SMALL, carry_out, check_each_ended_once, go_on

TRIALS = 6
SPACE = ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "job.epochs=3", "sweep.search=random", f"sweep.trials={TRIALS}"]
ORCHESTRATOR = [sys.executable, "-m", "orchestrator.cli.main"]


@pytest.fixture(autouse=True)
def project(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose store MLflow need not make first."""
    monkeypatch.chdir(storage.parent)


def command(*words: str) -> subprocess.Popen[bytes]:
    with Path("output.log").open("ab") as log:
        return subprocess.Popen([*ORCHESTRATOR, "sweep", *words], stdout=log, stderr=log)


def begin(ray_address: str, name: str, *overrides: str) -> subprocess.Popen[bytes]:
    return command("--name", name, *SMALL, f"cluster.address={ray_address}", *SPACE, *overrides)


def book_of(name: str) -> Book:
    return record.load("runs", name).book()


def wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool], limit_s: float = 120) -> None:
    """Until something is so, or the process is over."""
    end = time.monotonic() + limit_s
    while not ready() and process.poll() is None:
        assert time.monotonic() < end, Path("output.log").read_text()
        time.sleep(0.05)


def has_ended(name: str, count: int) -> Callable[[], bool]:
    return lambda: (
        (Path("runs") / name / "sweep.json").exists() and sum(e["kind"] == ENDED for e in book_of(name).order) >= count
    )


def children(root: int, mark: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(root).children(recursive=True) if mark in " ".join(child.cmdline())]


def workers_at_work() -> list[int]:
    """Worker processes of trials that are under way, as Ray names them."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "ray::GangMember.work" in " ".join(process.info["cmdline"] or []):
            found.append(process.info["pid"])
    return found


def check_mlflow(report: Report, storage: Path) -> None:
    """The sweep is a run with one child for each trial, each finished once, with its values and its result."""
    client = connect(resolve_uri(None, str(storage)))
    (experiment,) = [e for e in client.search_experiments() if e.name == "diabetes"]
    everything = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in everything if run.info.run_name == report.record.name]
    mine = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(int(run.data.tags["orchestrator.trial"]) for run in mine) == list(range(TRIALS))
    for run in mine:
        trial = report.book.trials[int(run.data.tags["orchestrator.trial"])]
        assert run.info.status == "FINISHED"
        assert float(run.data.params["optimizer.lr"]) == trial.values["optimizer.lr"]
        history = client.get_metric_history(run.info.run_id, "val/loss")
        assert len({point.step for point in history}) == len(history)
        assert min(point.value for point in history) == pytest.approx(trial.metrics["loss"])
    assert parent.info.status == "FINISHED"
    best = report.best()
    assert best
    assert parent.data.metrics["best/loss"] == pytest.approx(best.metrics["loss"])
    assert {"sweep.html", "history.png", "ledger.jsonl", "sweep.json"} <= {
        Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "sweep")
    }


@pytest.fixture(scope="module")
def whole(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The same sweep, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        return carry_out(ray_address, "whole", *SPACE)


def check_nothing_was_lost(report: Report, whole: Report) -> None:
    """Every trial ended once, with the values and the results of an undisturbed sweep."""
    check_each_ended_once(report.book, TRIALS)
    for number, trial in whole.book.trials.items():
        assert report.book.trials[number].values == trial.values
        assert report.book.trials[number].metrics["loss"] == trial.metrics["loss"]
    best, undisturbed = report.best(), whole.best()
    assert best
    assert undisturbed
    assert best.number == undisturbed.number


def test_worker_and_engine_killed(ray_address: str, whole: Report) -> None:
    """The worker's trial goes on by itself; without the engine a person resumes the sweep."""
    process = begin(ray_address, "cut", "tracking=off")
    wait_for(process, lambda: has_ended("cut", 1)() and bool(workers_at_work()))
    for pid in workers_at_work()[:1]:
        os.kill(pid, signal.SIGKILL)
    wait_for(process, has_ended("cut", 3))
    time.sleep(random.Random(20).uniform(0, 0.5))
    for engine in children(process.pid, "orchestrator.sweep.engine"):
        engine.kill()
    assert process.wait(60) == 3
    assert "Go on with: orchestrator sweep resume cut" in Path("output.log").read_text()
    check_nothing_was_lost(go_on("cut"), whole)


def test_command_killed_every_trial_is_once_in_mlflow(
    ray_address: str, whole: Report, storage: Path, mlflow_environment: None
) -> None:
    process = begin(ray_address, "cut")
    wait_for(process, has_ended("cut", 2))
    time.sleep(random.Random(21).uniform(0, 1.5))
    process.kill()
    process.wait()
    report = go_on("cut")
    check_nothing_was_lost(report, whole)
    check_mlflow(report, storage)


def test_ctrl_c_saves_and_a_resumed_sweep_goes_on_from_there(ray_address: str, mlflow_environment: None) -> None:
    process = begin(
        ray_address, "stopped", "job.epochs=400", "tracking=off", "sweep.trials=2", "sweep.max_concurrent=1"
    )
    wait_for(process, lambda: bool(list(Path("runs/stopped/trials").glob("*/checkpoints/step-*"))))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    text = Path("output.log").read_text()
    assert "Stopped with 0 of 2 trials done." in text
    assert "orchestrator sweep resume stopped" in text
    book = book_of("stopped")
    assert (book.status, [trial.state for trial in book.trials.values()]) == ("stopped", [State.running])
    (run,) = Path("runs/stopped/trials").glob("*-0000")
    saved = json.loads((run / "run.json").read_text())
    reached = saved["attempts"][-1]["last_step"]
    assert saved["status"] == "stopped"
    assert 0 < reached < 4000
    process = command("resume", "stopped")
    wait_for(process, lambda: len(json.loads((run / "run.json").read_text())["attempts"]) > 1)
    wait_for(process, lambda: len(list(run.glob("checkpoints/step-*-a2"))) > 0)
    subprocess.run([*ORCHESTRATOR, "sweep", "stop", "stopped"], check=True, timeout=60)
    assert process.wait(60) == 130
    again = json.loads((run / "run.json").read_text())["attempts"][-1]
    assert (again["number"], again["first_step"]) == (2, reached)
    assert again["last_step"] > reached


def test_two_cannot_carry_out_one_sweep(ray_address: str) -> None:
    process = begin(ray_address, "busy", "job.epochs=400", "tracking=off", "sweep.trials=2")
    wait_for(process, lambda: Path("runs/busy/sweep.json").exists() and bool(book_of("busy").trials))
    try:
        second = subprocess.run([*ORCHESTRATOR, "sweep", "resume", "busy"], capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert "Sweep busy is being carried out by process" in second.stderr
        assert "orchestrator sweep stop busy" in second.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.wait(60)
