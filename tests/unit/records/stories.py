"""Runs with a past, written to storage as drivers and workers write it; nothing is started."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.foundation.storage import open_store
from orchestrator.records import runs
from orchestrator.records.events import Event, EventWriter
from orchestrator.records.finder import Subject
from orchestrator.records.jobs import JobRecord, Submission
from orchestrator.records.runs import Attempt, RunRecord, Status
from tests.records import plan_with

START = 1_800_000_000.0


def make_run(storage: Path, run_id: str = "demo-1", created: float = START) -> RunRecord:
    """A run with a record and nothing else."""
    return runs.create(plan_with(storage, {"job": {"name": "digits"}}), run_id, clock=lambda: created)


def begin(record: RunRecord, number: int = 1, pid: int | None = None, host: str | None = None) -> Attempt:
    """An attempt, by a driver that lives (this process) unless told otherwise."""
    attempt = Attempt(
        number=number,
        started=START + 1000 * number,
        world_size=2,
        host=host or socket.gethostname(),
        pid=pid or os.getpid(),
    )
    record.attempts.append(attempt)
    record.status = Status.running
    record.save()
    return attempt


def end(record: RunRecord, status: Status, error: str = "") -> None:
    """The last attempt ends, and with it the run."""
    attempt = record.attempts[-1]
    attempt.ended, attempt.status, attempt.error = attempt.started + 60, status, error
    record.status = status
    record.save()


def tell(record: RunRecord, kind: str, at: float, writer: str = "driver", step: int | None = None, **data: Any) -> None:
    """Something happened `at` seconds after the start of the last attempt."""
    attempt = record.attempts[-1]
    out = EventWriter(record.store, writer, attempt.number)
    event = Event(kind=kind, time=attempt.started + at, attempt=attempt.number, step=step, data=data)
    out.add(event.kind, event.step, event.time, event.data)
    out.flush()


def say(record: RunRecord, rank: int | None, *parts: tuple[float | None, str]) -> None:
    """A log grows by parts, each at a time after START; None: killed before it was noted."""
    name = paths.DRIVER_LOG if rank is None else paths.worker_log(rank)
    log, times = Path(record.root) / name, Path(record.root) / paths.log_times(name)
    for file in (log, times):
        file.parent.mkdir(parents=True, exist_ok=True)
    for at, text in parts:
        with log.open("a") as out:
            out.write(text)
        if at is not None:
            with times.open("a") as out:
                out.write(f"{START + at:.3f} {log.stat().st_size}\n")


def fail(record: RunRecord, rank: int, error: str, message: str, at: float = 0.0, **more: Any) -> None:
    """What a worker leaves of an exception."""
    told = {"rank": rank, "time": at, "type": error, "message": message, "where": "", "traceback": "", **more}
    record.store.write(paths.failure(record.attempts[-1].number, rank), json.dumps(told))


def submit(storage: Path, run_id: str = "demo-1", attempt: int = 1, cluster: str = "local") -> JobRecord:
    """A job that was handed in."""
    submission = Submission(attempt=attempt, id=f"{run_id}-a{attempt}", time=START, host="desk", cluster=cluster)
    job = JobRecord(
        id=run_id,
        job="digits",
        root=f"{storage}/{run_id}",
        created=START,
        plan_digest="abc",
        cluster=cluster,
        submissions=(submission,),
    )
    job.save()
    return job


def seen(record: RunRecord) -> Subject:
    """The run as somebody who looks at it finds it."""
    return Subject(record.id, record.root)


def store_at(root: str) -> Any:
    """Run storage."""
    return open_store(root)
