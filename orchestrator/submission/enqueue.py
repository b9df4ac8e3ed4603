"""Where jobs are handed in, stopped and handed in again. Every step may be repeated, and is, after a client that died.

All of it happens on the head, one job at a time: what has been done is found in run storage, what Ray has taken is
known to Ray under an id that was chosen before. So the same command again completes what is missing, and starts nothing
that was started already.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator import paths
from orchestrator.cluster.node import here
from orchestrator.cluster.node.home import Record
from orchestrator.errors import ConfigError, MachineError, PlanError
from orchestrator.plans.types import Plan
from orchestrator.project.pack import Package
from orchestrator.records import jobs as records
from orchestrator.records.jobs import JobRecord, Submission
from orchestrator.records.runs import Status, check_id, refuse_second_driver
from orchestrator.submission.ray_jobs import RayJobs
from orchestrator.tracking import tags

ENTRY = "orchestrator.cli.job_entry"
LEAVING_S = 30.0
POLL_S = 0.2
Reached = Callable[[str], None]
"""Is told of each step, right after it was done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """What came of handing a job in."""

    job: JobRecord
    new: bool
    """Whether Ray has taken it now; False: it had it already, or it was carried out before."""


def cluster_here() -> Record:
    """The cluster that this machine is part of."""
    found = here.found(os.environ)
    if found is None and os.environ.get("RAY_ADDRESS"):
        raise MachineError(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} means another Ray than the clusters that were started by `up`.",
            f"Unset it, or say which cluster is meant: {here.CHOICE}=NAME",
        )
    if found is None:
        raise MachineError(
            "No cluster is up on this machine to take jobs.",
            "Start one: orchestrator up. One on other machines: submit --cluster FILE, or cluster exec on its head.",
        )
    return found


def known(run_id: str, root: str, asked: tuple[str, ...], package: str) -> JobRecord | None:
    """The job that this request has made already; None where it has to be planned first."""
    job = records.load(root)
    return job if job and (job.id, job.asked, job.package) == (run_id, asked, package) else None


def draft(
    plan: Plan, run_id: str, root: str, package: Package, asked: tuple[str, ...], *, prepares: bool = True
) -> JobRecord:
    """What a job will be. Nothing is written."""
    check_id(run_id)
    return JobRecord(
        id=run_id,
        job=plan.job,
        root=root,
        created=time.time(),
        plan_digest=plan.digest,
        package=package.digest,
        project=package.project.name,
        asked=asked,
        source=tags.git(package.project),
        prepares=prepares,
    )


def hand_in(
    job: JobRecord,
    plan: Plan,
    keep_package: Callable[[str], object],
    cluster: Record,
    reached: Reached = lambda _: None,
) -> Handed:
    """Hand a job in, or complete what an earlier try has left undone.

    `keep_package` puts the project into the storage that it is given, unless it is there.
    """
    with records.locked(job.id):
        reached("locked")
        found = records.load(job.root)
        _refuse_other(job, found)
        job = found or dataclasses.replace(job, cluster=cluster.name)
        records.note_here(job)
        reached("index")
        if found is None:
            keep_package(job.storage)
            reached("package")
            _write_plan(job, plan, reached)
            job.save()
            reached("job")
        return _submit(job, cluster, reached)


def hand_in_again(job: JobRecord, cluster: Record, reached: Reached = lambda _: None) -> Handed:
    """Hand a job in for a further attempt; an earlier try to do so is completed."""
    with records.locked(job.id):
        job = records.load(job.root) or job
        records.note_here(job)
        if _waits_for_its_driver(job, RayJobs(cluster)):
            return _submit(job, cluster, reached)
        number = 1 + max(len(job.run.attempts) if job.run else 0, job.latest.attempt if job.latest else 0)
        job.store.remove(paths.STOP_REQUEST)
        reached("request removed")
        return _submit(_with_submission(job, number, cluster, reached), cluster, reached)


def entrypoint(job: JobRecord, submission: Submission, cluster: Record) -> str:
    """What Ray runs on the head: our own driver, as part of the cluster, from anywhere."""
    environment = {here.CHOICE: cluster.name, "ORCHESTRATOR_HOME": str(paths.own_home())}
    words = [*(f"{name}={value}" for name, value in environment.items()), sys.executable, "-P", "-m", ENTRY]
    return shlex.join(["env", *words, job.root, str(submission.attempt)])


# --- steps -----------------------------------------------------------------------------------------------------------
def _refuse_other(job: JobRecord, found: JobRecord | None) -> None:
    """Refuse an id that stands for something else."""
    hint = f"Choose another id, or look at that one: orchestrator jobs show {job.id}"
    elsewhere = records.roots_here().get(job.id, job.root)
    if elsewhere != job.root and records.load(elsewhere):
        raise ConfigError(f"The id {job.id} is in use: the job lies in {elsewhere}.", hint)
    if found is None and job.store.exists(paths.RECORD):
        raise ConfigError(f"Run {job.id} exists already in {job.storage}, and was not submitted.", "Choose another id.")
    if found is None or (found.asked, found.package) == (job.asked, job.package):
        return
    if found.plan_digest != job.plan_digest:
        raise ConfigError(f"The id {job.id} is in use for another plan.", hint)
    if found.package != job.package:
        raise ConfigError(f"The id {job.id} is in use for the same plan of another state of the project.", hint)


def _write_plan(job: JobRecord, plan: Plan, reached: Reached) -> None:
    import yaml

    job.store.write(paths.PLAN, plan.to_json())
    reached("plan")
    job.store.write(paths.CONFIG, yaml.safe_dump(plan.spec, sort_keys=False))
    reached("config")


def _submit(job: JobRecord, cluster: Record, reached: Reached) -> Handed:
    """Have Ray start the latest submission, unless it has, or the run shows that it did."""
    if job.latest is None:
        job = _with_submission(job, 1, cluster, reached)
    latest = job.latest
    if latest is None or _has_begun(job, latest):
        return Handed(job=job, new=False)
    told = {"run": job.id, "root": job.root, "plan": job.plan_digest, "package": job.package}
    jobs = RayJobs(cluster)
    new = jobs.submit(latest.id, entrypoint(job, latest, cluster), told)
    reached("submitted")
    if not new:
        _compare(job, jobs, latest, told)
        reached("compared")
    return Handed(job=job, new=new)


def _with_submission(job: JobRecord, attempt: int, cluster: Record, reached: Reached) -> JobRecord:
    """Note an attempt before anybody is asked to make it."""
    submission = Submission(
        attempt=attempt,
        id=f"{job.id}-a{attempt}",
        time=time.time(),
        host=socket.gethostname(),
        cluster=cluster.name,
    )
    job = dataclasses.replace(job, cluster=cluster.name, submissions=(*job.submissions, submission))
    job.save()
    reached("submission")
    return job


def _has_begun(job: JobRecord, submission: Submission) -> bool:
    """Whether a driver has taken it up, as far as the run's own record tells, which outlives the cluster's."""
    return job.run is not None and len(job.run.attempts) >= submission.attempt


def _compare(job: JobRecord, jobs: RayJobs, latest: Submission, told: dict[str, str]) -> None:
    there = jobs.get(latest.id)
    if there and dict(there.metadata) != told:
        raise ConfigError(
            f"The cluster has a job {latest.id} of another plan, project or place.", f"Choose another id than {job.id}."
        )


def _waits_for_its_driver(job: JobRecord, jobs: RayJobs) -> bool:
    """Whether the latest submission is still to begin. Refuses a job that is over for good, or goes on."""
    if job.run and job.run.status is Status.finished:
        raise ConfigError(
            f"Run {job.id} has finished; there is nothing to go on with.",
            f"Do the same once more: orchestrator rerun {job.id}",
        )
    if job.latest is None:
        return True
    begun, submission = job.run if _has_begun(job, job.latest) else None, job.latest.id
    if begun and begun.attempts[-1].ended is not None:
        _let_it_leave(jobs, submission)
        return False
    there = jobs.get(submission)
    alive = there is not None and not there.is_over
    if begun is None:
        return alive or there is None
    if alive:
        raise PlanError(
            f"Job {job.id} goes on: there is nothing to resume.",
            f"Watch it: orchestrator attach {job.id}. Stop it: orchestrator stop {job.id}",
        )
    refuse_second_driver(begun)
    return False


def _let_it_leave(jobs: RayJobs, submission: str) -> None:
    """Give a driver that has told its end the time to hand its last metrics to MLflow."""
    end = time.monotonic() + LEAVING_S
    while (told := jobs.get(submission)) and not told.is_over and time.monotonic() < end:
        time.sleep(POLL_S)
