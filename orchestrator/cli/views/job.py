"""What a submission shows: the job, where it is stored, and what to type next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orchestrator.records.jobs import JobRecord
    from orchestrator.submission.enqueue import Handed


def show(handed: Handed, *, as_json: bool) -> None:
    """Print what came of a submission."""
    job = handed.job
    if as_json:
        click.echo(json.dumps({**job.to_dict(), "new": handed.new}, indent=2))
        return
    for note in job.plan.notes if handed.new else ():
        click.echo(f"note: {note}", err=True)
    click.echo(headline(handed))
    for n, verb in enumerate(("attach {}", "logs {} -f", "stop {}")):
        click.echo(f"{'next:' if n == 0 else '':<5} orchestrator {verb.format(job.id)}")
    if job.sweep:
        click.echo(f"      orchestrator sweep show {job.id}{_storage_flag(job)}")


def headline(handed: Handed) -> str:
    """Whether it was submitted now or before, and its folder."""
    job = handed.job
    if handed.new and job.latest:
        return f"{job.id} is handed to the cluster {job.cluster}, as {job.latest.id}\n  folder  {job.root}"
    return f"{job.id} was handed in already, and is not started again\n  folder  {job.root}"


def _storage_flag(job: JobRecord) -> str:
    from orchestrator.sweeps.record import load

    return load(job.storage, job.id).storage_flag
