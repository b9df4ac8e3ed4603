"""A submitted sweep on the head: its project made ready, one sitting carried out, and its record kept as that of a run.

So whatever looks at runs, stops them and hands them in again does so with sweeps. An attempt is a sitting.
"""

from __future__ import annotations

import os
import socket
import time

from orchestrator import paths
from orchestrator.errors import OrchestratorError, StaleAttemptError
from orchestrator.records.jobs import JobRecord
from orchestrator.records.runs import Attempt, RunRecord, Status
from orchestrator.runtime.worker import environment
from orchestrator.submission import head as jobs
from orchestrator.sweeps import driver, record
from orchestrator.sweeps.driver import View
from orchestrator.sweeps.report.report import Report

STOPPED = 130


def carry_out(job: JobRecord, attempt: int, view: View) -> Report:
    """Carry a sweep on to its end. Raises when it failed, was stopped or could not start; its record tells."""
    run = job.run or jobs.begin(job)
    if len(run.attempts) >= attempt:
        raise StaleAttemptError(f"Attempt {attempt} of sweep {job.id} has been made already.")
    _begin(run, job.plan.preferred.world_size)
    try:
        run.project = str(jobs.make_ready(paths.package(job.storage, job.package)))
        environment.give(job.plan.spec, os.environ)
        report = _sit(job, run, view)
    except OrchestratorError as error:
        _end(run, Status.stopped if error.exit_code == STOPPED else Status.failed, error)
        raise
    _end(run, Status.finished)
    return report


def _sit(job: JobRecord, run: RunRecord, view: View) -> Report:
    known = record.load(job.storage, job.id)
    definition = known.definition()
    definition.spec.tracking.tags = {**job.source, **definition.spec.tracking.tags}
    run.attempts[-1].first_step = 0
    run.save()
    return driver.carry_out(known, definition, view)


def _begin(run: RunRecord, workers: int) -> None:
    run.attempts.append(
        Attempt(
            number=len(run.attempts) + 1,
            started=time.time(),
            world_size=workers,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
    )
    run.status = Status.running
    run.save()


def _end(run: RunRecord, status: Status, error: OrchestratorError | None = None) -> None:
    attempt = run.attempts[-1]
    attempt.ended, attempt.status, run.status = time.time(), status, status
    if error:
        attempt.error, attempt.exit_code = f"{error.message}\n{error.hint}".strip(), error.exit_code
    run.save()
