"""A submitted run on the head: its project made ready, its record begun, its plan carried out."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from orchestrator import paths
from orchestrator.config.spec import spec_from_dict
from orchestrator.errors import OrchestratorError, StaleAttemptError, UnknownRunError
from orchestrator.project import unpack
from orchestrator.records import jobs as records
from orchestrator.records.jobs import JobRecord
from orchestrator.records.runs import Attempt, RunRecord, Status
from orchestrator.runtime.driver import driver
from orchestrator.runtime.driver.driver import View
from orchestrator.runtime.worker import environment


def carry_out(root: str, attempt: int, view: View) -> RunRecord:
    """Carry the run in a folder to its end. Raises when it failed, was stopped or could not start; its record tells."""
    job = records.load(root)
    if job is None:
        raise UnknownRunError(f"There is no job in {root}.")
    run = job.run or begin(job)
    if len(run.attempts) >= attempt:
        raise StaleAttemptError(f"Attempt {attempt} of run {job.id} has been made already.")
    package = paths.package(job.storage, job.package)
    plan = job.plan
    try:
        run.project = str(make_ready(package))
        environment.give(plan.spec, os.environ)
    except OrchestratorError as error:
        _note_failure(run, plan.preferred.world_size, error)
        raise
    spec = spec_from_dict(plan.spec)
    # A path that was meant from the folder of whoever submitted, and tags that only a repository can tell.
    spec.storage.path = job.storage
    spec.tracking.tags = {**job.source, **spec.tracking.tags}
    return driver.carry_out(run, plan, spec, view, package=package, prepares=job.prepares)


def begin(job: JobRecord) -> RunRecord:
    """The record of a run that has had no attempt yet."""
    run = RunRecord(
        id=job.id,
        job=job.job,
        created=job.created,
        status=Status.created,
        root=job.root,
        project="",
        plan_digest=job.plan_digest,
    )
    run.save()
    return run


def make_ready(package: str) -> Path:
    """Be in the project, as whoever submitted it was."""
    folder = unpack.ready(package)
    os.chdir(folder)
    return folder


def _note_failure(run: RunRecord, workers: int, error: OrchestratorError) -> None:
    """An attempt that ended before it had workers."""
    attempt = Attempt(
        number=len(run.attempts) + 1,
        started=time.time(),
        ended=time.time(),
        status=Status.failed,
        world_size=workers,
        host=socket.gethostname(),
        pid=os.getpid(),
        error=f"{error.message}\n{error.hint}".strip(),
        exit_code=error.exit_code,
    )
    run.attempts.append(attempt)
    run.status = Status.failed
    run.save()
