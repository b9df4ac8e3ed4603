"""Runs in run storage: their records, how they are created, found and listed."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from orchestrator import paths
from orchestrator.errors import ConfigError, FormatError, PlanError, StorageError, UnknownRunError, nearest
from orchestrator.foundation import formats
from orchestrator.foundation.storage import Store, open_store
from orchestrator.plans.types import Plan
from orchestrator.records.events import in_words, metrics_from

log = logging.getLogger(__name__)

Record = TypeVar("Record")

LAST = "last"
"""Stands for the newest run wherever an id is asked for."""
NO_RUNS = "There are no runs there. If yours lie elsewhere, name the place with --storage."
RESERVED = {
    LAST: "it stands for the newest run",
    paths.TRACKING: "MLflow's files lie under that name",
    paths.PACKAGES: "submitted projects lie under that name",
}


class Status(Enum):
    """Where a run stands."""

    created = "created"
    running = "running"
    finished = "finished"
    failed = "failed"
    stopped = "stopped"


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One try at carrying the plan out. The number fences: an older attempt's writes are stale."""

    number: int
    started: float
    ended: float | None = None
    status: Status = Status.running
    world_size: int
    """Workers that train; before they have started, as many as are hoped for."""
    host: str
    pid: int
    error: str = ""
    exit_code: int | None = None
    """What the command that carried it out ended with, where that was the attempt's fault."""
    reason: str = ""
    """Why it was begun, when it was the driver that began it; empty when a person did."""
    first_step: int | None = None
    """Where it went on from; None when its workers never started."""
    last_step: int | None = None
    """How far it came."""


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """What is known of a run, apart from its plan and its events."""

    id: str
    job: str
    created: float
    status: Status
    root: str
    """The run's own folder or URL."""
    project: str
    """Folder of the user's code."""
    plan_digest: str
    attempts: list[Attempt] = field(default_factory=list)
    mlflow_run_id: str = ""
    tracking_uri: str = ""
    final_metrics: dict[str, float] = field(default_factory=dict)
    best_checkpoint: str = ""
    last_checkpoint: str = ""
    step: int = 0
    format: int = formats.FORMAT

    @property
    def store(self) -> Store:
        """The run's folder."""
        return open_store(self.root)

    @property
    def plan(self) -> Plan:
        """The plan it carries out."""
        return Plan.from_json(self.store.read(paths.PLAN), f"{self.root}/{paths.PLAN}")

    @property
    def storage_flag(self) -> str:
        """What a command needs in order to find the run: nothing when it lies in the default folder."""
        storage = self.root.rsplit("/", 1)[0]
        return "" if storage == paths.absolute("runs") else f" --storage {shlex.quote(storage)}"

    def summary(self) -> dict[str, Any]:
        """What a person wants to know at the end."""
        seconds = sum((attempt.ended or attempt.started) - attempt.started for attempt in self.attempts)
        return {
            "run": self.id,
            "status": self.status.value,
            "steps": self.step,
            "seconds": round(seconds, 1),
            "attempts": len(self.attempts),
            "metrics": self.final_metrics,
            "folder": self.root,
            "checkpoint": self.best_checkpoint or self.last_checkpoint,
            "mlflow_run_id": self.mlflow_run_id,
            "tracking_uri": self.tracking_uri,
        }

    def save(self) -> None:
        """Write the record, all or nothing."""
        self.store.write(paths.RECORD, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        data = dataclasses.asdict(self)
        data["status"] = self.status.value
        for attempt in data["attempts"]:
            attempt["status"] = attempt["status"].value
        data["final_metrics"] = in_words(self.final_metrics)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunRecord:
        """Read what `to_dict` wrote."""
        attempts = [Attempt(**{**attempt, "status": Status(attempt["status"])}) for attempt in data["attempts"]]
        metrics = metrics_from(data.get("final_metrics", {}))
        return cls(**{**data, "status": Status(data["status"]), "attempts": attempts, "final_metrics": metrics})


def new_id(job: str, clock: Callable[[], float] = time.time) -> str:
    """A run id that sorts by time and that nobody else has: digits-20260131-154501-3f2a."""
    return f"{job}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(clock()))}-{secrets.token_hex(2)}"


def check_id(run_id: str) -> None:
    """Refuse an id that could not be a folder of its own in run storage, or that commands would not understand."""
    if run_id in RESERVED:
        raise ConfigError(f"A run cannot have the id {run_id!r}: {RESERVED[run_id]}.", "Choose another id.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", run_id):
        raise ConfigError(
            f"A run cannot have the id {run_id!r}.",
            "Use letters, digits, '_', '.' and '-', and begin with a letter or digit.",
        )


def create(plan: Plan, run_id: str | None = None, clock: Callable[[], float] = time.time) -> RunRecord:
    """Make the run's folder with plan, config and record. Nothing is started."""
    storage = paths.absolute(plan.spec["storage"]["path"])
    if run_id is None:
        run_id = new_id(plan.job, clock)
    check_id(run_id)
    record = RunRecord(
        id=run_id,
        job=plan.job,
        created=clock(),
        status=Status.created,
        root=f"{storage}/{run_id}",
        project=str(paths.project_dir()),
        plan_digest=plan.digest,
    )
    store = record.store
    if store.exists(paths.RECORD):
        raise ConfigError(
            f"Run {run_id} exists already in {storage}.",
            f"Choose another id, or go on with it: orchestrator resume {run_id}{record.storage_flag}",
        )
    import yaml

    store.write(paths.PLAN, plan.to_json())
    store.write(paths.CONFIG, yaml.safe_dump(plan.spec, sort_keys=False))
    record.save()
    return record


def load(storage: str, run_id: str) -> RunRecord:
    """The record of one run. A unique beginning of its id is enough; `last` is the newest run."""
    known = ids(storage)
    if run_id == LAST and (readable := list_runs(storage)):
        return readable[-1]
    matches = [known_id for known_id in known if known_id == run_id] or [
        known_id for known_id in known if known_id.startswith(run_id)
    ]
    if len(matches) > 1:
        raise UnknownRunError(f"Run id {run_id!r} is ambiguous: {', '.join(matches)}.", "Give more of it.")
    if not matches:
        near = ", ".join(nearest(run_id, known))
        hint = f"{f'Nearest: {near}. ' if near else ''}List them with: orchestrator runs." if known else NO_RUNS
        raise UnknownRunError(f"There is no run {run_id!r} in {paths.absolute(storage)}.", hint)
    return _stored(storage, matches[0])


def refuse_second_driver(record: RunRecord) -> None:
    """Two drivers of one run would write over each other."""
    if not record.attempts or is_over(record):
        return
    attempt = record.attempts[-1]
    if attempt.host == socket.gethostname() and attempt.pid != os.getpid():
        raise PlanError(
            f"Run {record.id} is being trained by process {attempt.pid} on this machine.",
            "Stop that one first, with Ctrl-C.",
        )


def is_over(record: RunRecord) -> bool:
    """Whether nobody trains it now. Of a driver on another machine that told no end, we take it that it lives."""
    if not record.attempts:
        return False
    attempt = record.attempts[-1]
    if attempt.ended is not None:
        return True
    import psutil

    return attempt.host == socket.gethostname() and not psutil.pid_exists(attempt.pid)


def ids(storage: str) -> list[str]:
    """Ids of all runs in a storage folder."""
    store = open_store(paths.absolute(storage))
    return [name for name in store.list() if name != paths.TRACKING and store.exists(f"{name}/{paths.RECORD}")]


def list_runs(storage: str) -> list[RunRecord]:
    """All runs that can be read, oldest first; damaged records and those of other formats are logged and left out."""
    records = readable(ids(storage), lambda run_id: _stored(storage, run_id))
    return sorted(records, key=lambda record: record.created)


def readable(names: Iterable[str], read_one: Callable[[str], Record]) -> list[Record]:
    """What a listing shows: all records that can be read. Others are logged, those of other formats in one line."""
    records, refused = [], []
    for name in names:
        try:
            records.append(read_one(name))
        except FormatError as error:
            refused.append(error)
        except StorageError as error:
            log.warning("%s", error)
    if refused:
        log.warning("%s", formats.left_out(refused))
    return records


def read(store: Store) -> RunRecord:
    """The record in a run's folder. Raises FileNotFoundError where there is none."""
    try:
        data = json.loads(store.read(paths.RECORD))
        formats.check("run", store.root, data)
        return RunRecord.from_dict(data)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise unreadable("run", f"{store.root}/{paths.RECORD}", error) from error


def unreadable(kind: str, file: str, error: Exception) -> StorageError:
    """What is raised for the damaged record of a run, job or sweep."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    name = file.split("/")[-2]
    return StorageError(f"The record of {kind} {name} cannot be read: {reason}.", f"Look at {file}.")


def _stored(storage: str, run_id: str) -> RunRecord:
    store = open_store(f"{paths.absolute(storage)}/{run_id}")
    try:
        return read(store)
    except FileNotFoundError as error:  # removed since it was listed
        raise unreadable("run", f"{store.root}/{paths.RECORD}", error) from error
