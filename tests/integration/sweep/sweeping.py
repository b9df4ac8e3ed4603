"""Sweeps in tests: small jobs, in this process or by the command, and what must be true of them afterwards."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.sweeps import driver, record
from orchestrator.sweeps.definition import Definition, define
from orchestrator.sweeps.engine.ledger import ENDED, TRIAL, Book
from orchestrator.sweeps.record import SweepRecord
from orchestrator.sweeps.report.report import Report
from orchestrator.sweeps.trials import Planner

if TYPE_CHECKING:
    from mlflow import MlflowClient

SMALL = ["job=diabetes", "job.epochs=2", "model.width=16", "tracking.system_metrics=false", "sweep.max_concurrent=2"]
ORCHESTRATOR = [sys.executable, "-m", "orchestrator.cli.main"]
LOG = Path("output.log")
POLL_S = 0.05


@dataclass
class Watcher:
    """A view that keeps what it is told."""

    said: list[str] = field(default_factory=list)
    shown: Report | None = None

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, report: Report) -> None:
        self.shown = report


def begin(ray_address: str, name: str, *overrides: str, tracked: bool = False) -> tuple[SweepRecord, Definition]:
    """A sweep that has not been carried out yet."""
    return make(name, *SMALL, f"cluster.address={ray_address}", *([] if tracked else ["tracking=off"]), *overrides)


def make(name: str, *overrides: str) -> tuple[SweepRecord, Definition]:
    """The same of these overrides alone."""
    definition = define(overrides)
    plan = Planner(definition).check_all()[0][1]
    return record.create(definition, name, plan.resources.gpus, plan.preferred.world_size), definition


def carry_out(ray_address: str, name: str, *overrides: str, tracked: bool = False) -> Report:
    """A sweep, to its end."""
    return driver.carry_out(*begin(ray_address, name, *overrides, tracked=tracked), Watcher())


def go_on(name: str) -> Report:
    """Resume, as another process would."""
    known = record.load("runs", name)
    return driver.carry_out(known, known.definition(), Watcher())


# --- by the command --------------------------------------------------------------------------------------------------
def command(*words: str) -> subprocess.Popen[bytes]:
    """`orchestrator sweep WORDS`, as a process to watch and to kill."""
    with LOG.open("ab") as log:
        return subprocess.Popen([*ORCHESTRATOR, "sweep", *words], stdout=log, stderr=log)


def book_of(name: str) -> Book:
    return record.load("runs", name).book()


def wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool], limit_s: float = 120) -> None:
    """Until something is so, or the process is over."""
    end = time.monotonic() + limit_s
    while not ready() and process.poll() is None:
        assert time.monotonic() < end, LOG.read_text()
        time.sleep(POLL_S)


def has_ended(name: str, count: int) -> Callable[[], bool]:
    """Whether so many trials are over."""
    return lambda: (
        (Path("runs") / name / "sweep.json").exists() and sum(e["kind"] == ENDED for e in book_of(name).order) >= count
    )


# --- what must be true afterwards ------------------------------------------------------------------------------------
def check_each_ended_once(book: Book, trials: int) -> None:
    """Every trial was chosen once and ended once."""
    for kind in (TRIAL, ENDED):
        numbers = [entry["number"] for entry in book.order if entry["kind"] == kind]
        assert sorted(numbers) == list(range(trials)), (kind, numbers)


def check_nothing_was_lost(report: Report, whole: Report) -> None:
    """Every trial ended once, with the values and the results of an undisturbed sweep."""
    check_each_ended_once(report.book, whole.record.trials)
    for number, trial in whole.book.trials.items():
        mine = report.book.trials[number]
        assert (mine.state, mine.values) == (trial.state, trial.values), (number, mine.state, mine.error)
        assert mine.metrics["loss"] == trial.metrics["loss"], (number, mine.metrics, trial.metrics)
    best, undisturbed = report.best(), whole.best()
    assert best and undisturbed  # noqa: PT018
    assert best.number == undisturbed.number


def check_mlflow(report: Report, client: MlflowClient) -> None:
    """The sweep is a run with one child for each trial, each finished once, with its values and its result."""
    (experiment,) = [e for e in client.search_experiments() if e.name == report.record.job]
    everything = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in everything if run.info.run_name == report.record.name]
    mine = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    numbers = sorted(int(run.data.tags["orchestrator.trial"]) for run in mine)
    assert numbers == list(range(report.record.trials)), numbers
    for run in mine:
        trial = report.book.trials[int(run.data.tags["orchestrator.trial"])]
        assert run.info.status == "FINISHED", (trial.number, run.info.status)
        assert all(_is_recorded(run.data.params, key, value) for key, value in trial.values.items()), trial.number
        history = client.get_metric_history(run.info.run_id, "val/loss")
        assert len({point.step for point in history}) == len(history), trial.number
        assert math.isclose(min(point.value for point in history), trial.metrics["loss"], rel_tol=1e-6), trial.number
    assert parent.info.status == "FINISHED", parent.info.status
    best = report.best()
    assert best
    assert math.isclose(parent.data.metrics["best/loss"], best.metrics["loss"], rel_tol=1e-6)
    files = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "sweep")}
    assert {"sweep.html", "history.png", "ledger.jsonl", "sweep.json"} <= files, files


def _is_recorded(params: Mapping[str, str], key: str, value: Any) -> bool:
    return float(params[key]) == value
