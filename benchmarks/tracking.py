"""Metrics: what they cost the training loop, and how fast they are stored in MLflow, against MLflow's own calls."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Measurement, Result, interleave
from orchestrator.foundation.storage import open_store
from orchestrator.records.events import METRICS, EventWriter
from orchestrator.records.spool import Spool
from orchestrator.tracking import client as mlflow_client
from orchestrator.tracking.backlog import Backlog
from orchestrator.tracking.forwarder import Forwarder
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.store import prepare, resolve_uri

NAMES = [f"train/metric-{number}" for number in range(5)]
CALLS, STEP_S = 800, 0.001
"""Calls of which the cost is taken, and the pause between two, in which a loop would train."""
POINTS, PEER_POINTS = 20_000, 200
"""Values stored by each side; the peer's rate does not depend on their number."""


class Sides:
    """Both sides, each time with a SQLite store of its own, all made alike."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        mlflow_client.load()
        prepare(resolve_uri(None, str(folder / "blank")), 60)

    def _fresh(self, side: str) -> tuple[Path, Any, str]:
        """A folder with a store, a client for it, and a run."""
        from mlflow import MlflowClient

        folder = self._folder / f"{side}-{next(self._numbers)}"
        shutil.copytree(self._folder / "blank", folder)
        client = MlflowClient(f"sqlite:///{folder}/mlflow/mlflow.db")
        return folder, client, client.create_run(client.create_experiment("benchmark")).info.run_id

    def spool(self) -> Measurement:
        """The caller's cost of Spool.emit."""
        folder, _, _ = self._fresh("spool")
        spool = spool_in(folder)
        cost = caller_cost(lambda step, metrics: spool.emit(METRICS, step, metrics=metrics))
        spool.close()
        return cost

    def asynchronous(self) -> Measurement:
        """The caller's cost of mlflow.log_metrics with its own asynchronous logging."""
        import mlflow

        folder, _, run_id = self._fresh("asynchronous")
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow/mlflow.db")
        cost = caller_cost(
            lambda step, metrics: mlflow.log_metrics(metrics, step=step, run_id=run_id, synchronous=False)
        )
        mlflow.flush_async_logging()
        return cost

    def forwarder(self) -> Measurement:
        """Values stored per second, from the first emit until all are in MLflow's database."""
        from mlflow.entities import Metric

        folder, client, run_id = self._fresh("forwarder")
        spool = spool_in(folder)
        backlog = Backlog(open_store(str(folder / "run")), Ledger(mlflow_run_id=run_id), created=time.time(), attempt=1)
        forwarder = Forwarder(backlog, lambda points: client.log_batch(run_id, [Metric(*point) for point in points]))
        forwarder.start()
        begun = time.perf_counter()
        for step in range(POINTS // len(NAMES)):
            spool.emit(METRICS, step, metrics=values(step))
        spool.close()
        if not forwarder.close(120):
            raise SystemExit(f"not all was stored: {forwarder.problem}")
        return stored(folder, POINTS, time.perf_counter() - begun)

    def log_metric(self) -> Measurement:
        """The same with mlflow.log_metric in a loop."""
        import mlflow

        folder, _, run_id = self._fresh("log-metric")
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow/mlflow.db")
        begun = time.perf_counter()
        for step in range(PEER_POINTS // len(NAMES)):
            for name, value in values(step).items():
                mlflow.log_metric(name, value, step=step, run_id=run_id)
        return stored(folder, PEER_POINTS, time.perf_counter() - begun)


def spool_in(folder: Path) -> Spool:
    """A worker's way to a run's events."""
    return Spool(EventWriter(open_store(str(folder / "run")), "rank-0", 1))


def values(step: int) -> dict[str, float]:
    """The metrics of a step."""
    return dict.fromkeys(NAMES, step + 0.5)


def caller_cost(log: Callable[[int, dict[str, float]], object]) -> Measurement:
    """What a call costs its caller, by value and in the worst one of a hundred calls."""
    seconds = []
    for step in range(CALLS):
        metrics = values(step)
        begun = time.perf_counter()
        log(step, metrics)
        seconds.append(time.perf_counter() - begun)
        time.sleep(STEP_S)
    p99 = statistics.quantiles(seconds, n=100)[-1]
    return {"us_per_value": 1e6 * statistics.fmean(seconds) / len(NAMES), "us_per_call_p99": 1e6 * p99}


def stored(folder: Path, points: int, seconds: float) -> Measurement:
    """The rate, if all are there."""
    with sqlite3.connect(folder / "mlflow/mlflow.db") as connection:
        (found,) = connection.execute("SELECT count(*) FROM metrics").fetchone()
    connection.close()
    if found != points:
        raise SystemExit(f"{found} of {points} values are in {folder}")
    return {"values_per_s": points / seconds}


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """All comparisons of this module."""
    sides = Sides(folder)
    cost = interleave(pairs, sides.spool, sides.asynchronous)
    rate = interleave(pairs, sides.forwarder, sides.log_metric)
    calls = "5 metrics a call, 1000 calls/s"
    against = "mlflow.log_metrics(synchronous=False)"
    return [
        Result(
            name="emit",
            what=f"{calls}: caller's us per value, mean, {against}",
            figure="us_per_value",
            target="<= 50 us",
            pairs=cost,
        ),
        Result(
            name="emit-p99",
            what=f"{calls}: caller's us per call, p99, {against}",
            figure="us_per_call_p99",
            target="<= 1000 us",
            pairs=cost,
        ),
        Result(
            name="durable",
            what="values/s until stored in MLflow's SQLite, mlflow.log_metric",
            figure="values_per_s",
            target=">= 20",
            pairs=rate,
        ),
    ]
