"""Runs and servers for tests of what is recorded in MLflow."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.foundation.environment import quiet_telemetry
from orchestrator.plans.types import Plan
from orchestrator.records import runs
from orchestrator.records.events import METRICS, Event, EventWriter
from orchestrator.records.runs import Attempt, RunRecord
from orchestrator.tracking.store import TrackingStore
from tests.records import plan_with

START_S = 1_700_000_000.0
REAL_MLFLOW = [
    pytest.mark.usefixtures("mlflow_environment"),
    *(pytest.mark.filterwarnings(f"ignore:::{name}") for name in ("mlflow", "alembic", "sqlalchemy", "pydantic")),
]
"""What tests that speak to MLflow are marked with."""


def make_plan(storage: Path, **model: object) -> Plan:
    """A plan with enough settings to need several calls."""
    spec = {
        "job": {
            "name": "digits",
            "task": "orchestrator.jobs.image_classification:ImageClassification",
            "seed": 7,
            "clip": None,
        },
        "model": {"_target_": "orchestrator.jobs.image_classification:small_resnet", **model},
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999]},
        "many": {f"key{number}": number for number in range(250)},
    }
    return plan_with(storage, spec, deepspeed={"train_batch_size": 64})


def make_run(storage: Path, run_id: str = "digits-1") -> tuple[RunRecord, Plan]:
    """A run in its first attempt, on a machine that is not this one."""
    plan = make_plan(storage)
    record = runs.create(plan, run_id, clock=lambda: START_S)
    begin_attempt(record, 1)
    return record, plan


def begin_attempt(record: RunRecord, number: int) -> None:
    """A further attempt, 1000 s after the one before."""
    record.attempts.append(Attempt(number=number, started=START_S + 1000 * number, world_size=2, host="here", pid=1))
    record.save()


def write(record: RunRecord, *events: Event) -> None:
    """What a worker would have written."""
    for event in events:
        writer = EventWriter(record.store, "rank-0", event.attempt)
        writer.add(event.kind, event.step, event.time, event.data)
        writer.flush()


def metrics_event(step: int | None, attempt: int = 1, moment: float | None = None, **metrics: float) -> Event:
    """Metrics of a step, a second after those of the step before."""
    moment = START_S + 1001 + (step or 0) if moment is None else moment
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return Event(kind=METRICS, time=moment, attempt=attempt, step=step, data={"metrics": named})


def connect(store: TrackingStore) -> Any:
    """MLflow's own client."""
    from mlflow import MlflowClient

    return MlflowClient(store.uri)


def steps_of(store: TrackingStore, run_id: str, name: str) -> list[int]:
    """The steps of which MLflow has a metric; one that is there twice is named twice."""
    return [point.step for point in connect(store).get_metric_history(run_id, name)]


def assert_each_once(store: TrackingStore, run_id: str, last: int, names: Sequence[str]) -> None:
    """All metrics are there, of each step up to the last one exactly once."""
    for name in names:
        assert sorted(steps_of(store, run_id, name)) == list(range(1, last + 1)), name


def until(what: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for something to become so."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def frozen(process: psutil.Process) -> contextlib.ExitStack:
    """A server and all that it started, stopped until the stack is left."""
    stack = contextlib.ExitStack()
    for one in (process, *process.children(recursive=True)):
        one.suspend()
        stack.callback(one.resume)
    return stack


@dataclass(frozen=True)
class MlflowService:
    """A running MLflow server."""

    process: psutil.Process
    port: int

    @property
    def uri(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mlflow_server(database: Path, port: int, served: Path) -> list[str]:
    """The command for MLflow's own server."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    return [*command, "--port", str(port), "--workers", "1", "--artifacts-destination", str(served)]


@contextlib.contextmanager
def running(command: Sequence[str], port: int, path: str, folder: Path) -> Iterator[int]:
    """A server process for the time of a block; ended with all that it started."""
    environment = dict(os.environ)
    quiet_telemetry(environment)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2):
                break
            time.sleep(0.2)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
