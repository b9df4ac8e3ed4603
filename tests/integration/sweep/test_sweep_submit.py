"""`orchestrator sweep --submit` on a cluster of this machine, as a person uses it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.foundation.storage import open_store
from orchestrator.sweeps.engine.ledger import Book, Ledger
from tests.integration.submit.submitting import Person, own_project, soon, write
from tests.integration.sweep.sweeping import check_each_ended_once

TINY = ("--submit", "job=diabetes", "job.epochs=1", "model.width=8,16,32", "sweep.max_concurrent=1")
LONG = ("--submit", "job=diabetes", "job.epochs=400", "model.width=8,16", "sweep.max_concurrent=1")
STEPS = ("package", "job", "submitted")


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    person = Person(tmp_path_factory.mktemp("submit"))
    own_project(person.folder)
    person.gets("up", "--cpus", "2")
    yield person
    person.says("down")


def book(person: Person, name: str) -> Book:
    return Ledger(open_store(str(person.storage / name))).read()


def shown(person: Person, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(person.gets("jobs", "show", name, "--json"))
    return data


@pytest.fixture(scope="module")
def done(person: Person, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A sweep over a job of the person's own, with its packages and secrets, followed to its end; its command."""
    token = write(tmp_path_factory.mktemp("secrets"), "token", "hf\n")
    token.chmod(0o600)
    words = (
        "sweep", "--submit", "--name", "own", "job=line", "batch=16,32", "sweep.max_concurrent=1",
        f"+environment.secrets.HF_TOKEN={{file: {token}}}", f"+environment.variables.WHERE={token}",
        "+environment.variables.MODE=fast",
    )  # fmt: skip
    told = person.says(*words, "--wait")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "sweep own: 2 finished" in told.stdout
    return words


def test_the_trials_ran_in_the_project_as_it_was_sent(person: Person, done: tuple[str, ...]) -> None:
    check_each_ended_once(book(person, "own"), 2)
    trial = json.loads((person.storage / "own/trials/own-0001/run.json").read_text())
    assert trial["project"] != str(person.folder)


def test_what_looks_at_jobs_and_sweeps_knows_it(person: Person, done: tuple[str, ...]) -> None:
    assert person.submissions("own") == ["own-a1"]
    assert person.mlflow_runs("own") == 1
    assert shown(person, "own")["state"] == "finished"
    assert "trial 1 finished" in person.gets("logs", "own")
    assert json.loads(person.gets("sweep", "show", "own", "--json"))["status"] == "finished"
    assert "train it in full: orchestrator train cluster=existing job=line" in person.gets("sweep", "best", "own")


def test_a_name_stands_for_one_sweep(person: Person, done: tuple[str, ...]) -> None:
    assert "own was handed in already, and is not started again" in person.gets(*done)
    assert person.submissions("own") == ["own-a1"]
    other = person.says(*done, "job.epochs=4")
    assert (other.returncode, "The id own is in use for another plan." in other.stderr) == (2, True)
    rerun = person.says("rerun", "own")
    assert (rerun.returncode, "own is a sweep" in rerun.stderr) == (2, True)


@pytest.mark.matrix(2)
def test_stop_saves_and_resume_goes_on(person: Person) -> None:
    person.gets("sweep", *LONG, "--name", "long")
    trial = person.storage / "long/trials/long-0000"
    soon(lambda: list(trial.glob("checkpoints/step-*")), 200)
    assert shown(person, "long")["state"] == "running"
    refused = person.says("sweep", "resume", "long")
    assert (refused.returncode, "long goes on" in refused.stderr) == (2, True)
    assert "long stopped" in person.gets("stop", "long")
    assert "Stopped with 0 of 2 trials done." in shown(person, "long")["note"]
    saved = json.loads((trial / "run.json").read_text())
    assert (saved["status"], saved["step"] > 0) == ("stopped", True)

    person.gets("sweep", "resume", "long")
    soon(lambda: list(trial.glob("checkpoints/step-*-a2")), 200)
    person.gets("stop", "long")
    assert json.loads((trial / "run.json").read_text())["attempts"][1]["first_step"] == saved["step"]
    assert person.submissions("long") == ["long-a1", "long-a2"]
    assert shown(person, "long")["state"] == "stopped"


@pytest.mark.matrix(2)
def test_a_client_killed_at_any_step_is_completed_once(person: Person) -> None:
    script = [sys.executable, Path(__file__).parents[1] / "submit/client_killed.py", *STEPS, "--", *TINY[1:]]
    env = {**person.env, "PYTHONPATH": str(Path(__file__).parents[3])}
    told = subprocess.run(script, cwd=person.folder, env=env, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {step: [-signal.SIGKILL, 0] for step in STEPS}
    for name in [f"kill-{step}" for step in STEPS]:
        assert person.submissions(name) == [f"{name}-a1"]
        soon(lambda name=name: person.run(name).get("status") == "finished", 250)  # type: ignore[misc]
        check_each_ended_once(book(person, name), 3)
