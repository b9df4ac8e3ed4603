"""The verbs as functions: `orchestrator.submit(...)`, and a handle on what was submitted. See docs/submit.md."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import paths
from orchestrator.config.request import ConfigArgs
from orchestrator.errors import MachineError, RunFailedError, RunStoppedError
from orchestrator.submission.limits import UPLOAD_LIMIT

if TYPE_CHECKING:
    from orchestrator.records.finder import Subject
    from orchestrator.records.status import Standing


POLL_S = 0.5
REMOTE_POLL_S = 3.0
"""Between two looks at an object store, where each costs time and money."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a job ended."""

    state: str
    """finished, failed, stopped or lost."""
    step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    """Name of the best checkpoint, or else the last."""
    folder: str = ""
    mlflow_run_id: str = ""
    error: str = ""
    """Why it failed, the cause first; empty when it did not."""


class Job:
    """A handle on a job. Everything is read anew from run storage, so it serves as well when the cluster is gone."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @property
    def id(self) -> str:
        """The run's id."""
        return self._subject.id

    @property
    def folder(self) -> str:
        """The run's folder or URL."""
        return self._subject.root

    @property
    def state(self) -> str:
        """What it does now: queued, waiting, starting, running, stopping, finished, failed, stopped or lost."""
        return self._standing().state.value

    def why(self) -> str:
        """What it waits for, in words; or where it stands, if it does not wait."""
        from orchestrator.records.why import explain

        return "\n".join(explain(self._subject.fresh(), self._standing()).lines())

    def logs(self, *, follow: bool = False, ranks: Sequence[int] = ()) -> Iterator[str]:
        """The lines that its workers and its driver printed; `follow`: also those to come, until it is over."""
        from orchestrator.records import logs

        source = logs.Logs(self._subject.store, logs.Wanted(ranks=frozenset(ranks)))
        while True:
            over = not follow or self._standing().is_over
            for line in source.lines():
                yield f"{line.source} | {line.text}"
            if over:
                return
            time.sleep(self._pause)

    def wait(self, timeout_s: float | None = None) -> Result:
        """Wait until it is over, however it ends. TimeoutError: it is not, and goes on."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._standing().is_over:
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"Job {self.id} is {self.state} after {timeout_s:g} s.")
            time.sleep(self._pause)
        return self._outcome()

    def result(self, timeout_s: float | None = None) -> Result:
        """The same for a job that has to succeed: RunFailedError or RunStoppedError where it did not."""
        found = self.wait(timeout_s)
        if found.state == "stopped":
            raise RunStoppedError(f"Job {self.id} was stopped.", f"Go on with: orchestrator resume {self.id}")
        if found.state != "finished":
            raise RunFailedError(found.error or f"Job {self.id} is {found.state}.", f"Look at: {self.folder}")
        return found

    def stop(self, *, now: bool = False, grace_s: float = 120.0, wait: bool = True) -> None:
        """Have it save a checkpoint and end; at once after `grace_s`, or right away with `now`."""
        from orchestrator.submission import stop

        before = stop.ask(self._subject.fresh(), now=now, grace_s=grace_s)
        if wait and not before.is_over:
            stop.wait(self._subject, limit_s=0.0 if now else grace_s)

    def resume(self) -> Job:
        """Hand it in again, to go on from its newest checkpoint."""
        from orchestrator.submission import enqueue

        job = self._subject.fresh().job
        if job is None:
            raise MachineError(f"Run {self.id} was not submitted.", f"Go on with: orchestrator resume {self.id}")
        enqueue.hand_in_again(job, enqueue.cluster_here())
        return self

    def rerun(self, *, id: str | None = None) -> Job:
        """The same once more: its plan, and its project as it was sent."""
        from orchestrator.submission import request

        with _part_of_the_cluster():
            handed = request.rerun(self.id, self._subject.storage, id, UPLOAD_LIMIT)
        return _handle(handed.job.id, handed.job.root)

    def __repr__(self) -> str:
        return f"Job({self.id!r}, folder={self.folder!r})"

    @property
    def _pause(self) -> float:
        return REMOTE_POLL_S if paths.is_url(self.folder) else POLL_S

    def _standing(self) -> Standing:
        from orchestrator.records import status
        from orchestrator.submission import ray_status

        return status.stand(self._subject.fresh(), ray_status.ask)

    def _outcome(self) -> Result:
        from orchestrator.records.failure_report import first_failure

        standing, run = self._standing(), self._subject.fresh().run
        if run is None:
            return Result(state=standing.state.value, folder=self.folder, error=standing.note)
        failure = first_failure(run)
        error = "\n".join(failure.lines()) if failure else standing.note if standing.state.value == "lost" else ""
        return Result(
            state=standing.state.value,
            step=run.step,
            metrics=dict(run.final_metrics),
            checkpoint=run.best_checkpoint or run.last_checkpoint,
            folder=run.root,
            mlflow_run_id=run.mlflow_run_id,
            error=error,
        )


def submit(
    *overrides: str,
    id: str | None = None,
    plan: str | os.PathLike[str] | None = None,
    upload_limit: str = UPLOAD_LIMIT,
) -> Job:
    """Hand a job to the cluster that is up here, with the project in this folder; returns at once.

    `overrides`: as on the command line. `id`: the run's; with it, a repeated call completes the first and starts
    nothing twice. `plan`: a file that `orchestrator plan --out` wrote, in place of overrides.
    """
    from orchestrator.submission import request

    file = None if plan is None else str(Path(plan))
    with _part_of_the_cluster():
        handed = request.hand_in(ConfigArgs(overrides=tuple(overrides)), file, id, upload_limit)
    return _handle(handed.job.id, handed.job.root)


def job(id: str, *, storage: str | None = None) -> Job:
    """A job by its id, a unique beginning of one, or `last`; of `storage`, or of those known here."""
    from orchestrator.records import finder

    return Job(finder.find(id, storage))


def runs(*, storage: str | None = None, submitted: bool = False) -> list[Job]:
    """All runs in `storage`, or those in `runs/` and those submitted from here; oldest first.

    `submitted`: only those that were submitted to a cluster, as `orchestrator jobs` lists them.
    """
    from orchestrator.records import finder, jobs

    if submitted:
        return [_handle(each.id, each.root) for each in jobs.jobs(storage)]
    return [Job(subject) for subject in finder.find_all(storage)]


def _handle(run_id: str, root: str) -> Job:
    from orchestrator.records.finder import Subject

    return Job(Subject(run_id, root))


@contextmanager
def _part_of_the_cluster() -> Iterator[None]:
    """Use the cluster of this machine, as commands do; afterwards the environment is as it was."""
    from orchestrator.cluster.node import here
    from orchestrator.foundation.environment import quiet_telemetry

    before = dict(os.environ)
    try:
        quiet_telemetry(os.environ)
        here.adopt(os.environ)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
