"""Sweeps that are killed and stopped, and go on: every trial ends once, in the ledger and in MLflow."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import TrackingError
from orchestrator.sweeps.engine.ledger import State
from orchestrator.sweeps.report.report import Report
from orchestrator.tracking.store import resolve_uri
from tests.integration.processes import children
from tests.integration.sweep import sweep_cuts
from tests.integration.sweep.sweeping import (
    ORCHESTRATOR,
    SMALL,
    book_of,
    carry_out,
    check_mlflow,
    check_nothing_was_lost,
    command,
    go_on,
    has_ended,
    wait_for,
)
from tests.integration.tracking.recording import connect

pytestmark = pytest.mark.matrix(3)

TRIALS = 6
SPACE = ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "job.epochs=3", "sweep.search=random", f"sweep.trials={TRIALS}"]


@pytest.fixture(autouse=True)
def project(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose store MLflow need not make first."""
    monkeypatch.chdir(storage.parent)


def begin(ray_address: str, name: str, *overrides: str) -> subprocess.Popen[bytes]:
    return command("--name", name, *SMALL, f"cluster.address={ray_address}", *SPACE, *overrides)


def workers_at_work() -> list[int]:
    """Worker processes of trials that are under way, as Ray names them."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "ray::GangMember.work" in " ".join(process.info["cmdline"] or []):
            found.append(process.info["pid"])
    return found


@pytest.fixture(scope="module")
def whole(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The same sweep, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        return carry_out(ray_address, "whole", *SPACE)


def test_worker_and_engine_killed(ray_address: str, whole: Report) -> None:
    """The worker's trial goes on by itself; without the engine a person resumes the sweep."""
    process = begin(ray_address, "cut", "tracking=off")
    wait_for(process, lambda: has_ended("cut", 1)() and bool(workers_at_work()))
    for pid in workers_at_work()[:1]:
        os.kill(pid, signal.SIGKILL)
    wait_for(process, has_ended("cut", 3))
    time.sleep(random.Random(20).uniform(0, 0.5))
    for engine in children(process.pid, "orchestrator.sweeps.engine.engine"):
        engine.kill()
    assert process.wait(60) == 3
    assert "Go on with: orchestrator sweep resume cut" in Path("output.log").read_text()
    check_nothing_was_lost(go_on("cut"), whole)


def test_trials_that_stand_at_rungs_when_the_engine_is_killed_go_on_when_it_is_their_turn(ray_address: str) -> None:
    """One at a time, so that it is no matter of chance who comes to a rung first."""
    halving = [*SPACE, "tracking=off", "job.epochs=9", "sweep.scheduler=asha", "sweep.max_concurrent=1"]
    process = command("--name", "cut", *SMALL, f"cluster.address={ray_address}", *halving)
    wait_for(process, lambda: (Path("runs/cut/sweep.json")).exists() and book_of("cut").count(State.paused) > 1)
    for engine in children(process.pid, "orchestrator.sweeps.engine.engine"):
        engine.kill()
    assert process.wait(60) == 3
    paused = [number for number, trial in book_of("cut").trials.items() if trial.state is State.paused]
    whole = carry_out(ray_address, "asha", *halving)
    report = go_on("cut")
    check_nothing_was_lost(report, whole)
    assert any(report.book.trials[number].at > 1 for number in paused)
    assert {trial.state for trial in report.book.trials.values()} == {State.finished, State.pruned}


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
    check_mlflow(report, connect(resolve_uri(None, str(storage))))


def test_the_head_killed_ends_the_command_and_a_resumed_sweep_has_a_new_one(whole: Report) -> None:
    """One kind of kill of `make matrix`, which has them all."""
    check_nothing_was_lost(sweep_cuts.killed("cut", 1, ["head"], TRIALS, *SPACE, "tracking=off"), whole)


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


def test_a_store_that_is_too_slow_ends_the_sweep_in_one_line(ray_address: str, mlflow_environment: None) -> None:
    with pytest.raises(TrackingError, match="MLflow did not record the sweep within 1e-06 s"):
        carry_out(ray_address, "slow", *SPACE, "tracking.timeout_s=1e-6", tracked=True)


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
