"""`orchestrator submit`: hand a job to the cluster, and walk away."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import ConfigArgs, config_options
from orchestrator.submission.request import UPLOAD_LIMIT

if TYPE_CHECKING:
    from orchestrator.submission.enqueue import Handed

id_option = click.option("--id", "run_id", metavar="ID", help="The run's id; with it, this may be repeated safely.")
wait_option = click.option("--wait", is_flag=True, help="Follow it, and end with its exit code. Ctrl-C detaches.")
limit_option = click.option(
    "--upload-limit", metavar="SIZE", default=UPLOAD_LIMIT, show_default=True, help="Send no larger project."
)
cluster_option = click.option(
    "--cluster",
    "cluster_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Do it on the head of the cluster in this cluster.yaml, over SSH.",
)


@click.command()
@click.option(
    "--plan", "plan_file", metavar="FILE", type=click.Path(dir_okay=False), help="Run this plan as it stands."
)
@id_option
@wait_option
@limit_option
@cluster_option
@config_options
def submit(
    config: ConfigArgs,
    plan_file: str | None,
    run_id: str | None,
    wait: bool,
    upload_limit: str,
    cluster_file: str | None,
) -> None:
    """Hand a job to the cluster that is up here; it runs there while nobody waits.

    \b
    orchestrator up
    orchestrator submit job=digits cluster.workers=2
    orchestrator submit job=digits --id nightly     again: completes it, and starts nothing twice
    orchestrator submit job=digits --wait           follow it; Ctrl-C detaches

    The project goes along: all files of this folder that neither .gitignore nor .orchignore names.
    """
    if config.handled_show():
        return
    if cluster_file:
        from orchestrator.submission import remote

        sys.exit(remote.submit(cluster_file, config, plan_file, run_id, wait=wait, upload_limit=upload_limit))
    from orchestrator.submission import request

    handed = request.hand_in(config, plan_file, run_id, upload_limit)
    sys.exit(show(handed, as_json=config.json, wait=wait))


def show(handed: Handed, *, as_json: bool, wait: bool) -> int:
    """Say what came of it, or follow it to its end; the exit code."""
    job = handed.job
    if wait:
        return _follow(handed, as_json=as_json)
    if as_json:
        click.echo(json.dumps({**job.to_dict(), "new": handed.new}, indent=2))
        return 0
    for note in job.plan.notes if handed.new else ():
        click.echo(f"note: {note}", err=True)
    click.echo(_said(handed))
    for n, verb in enumerate(("attach {}", "logs {} -f", "stop {}")):
        click.echo(f"{'next:' if n == 0 else '':<5} orchestrator {verb.format(job.id)}")
    return 0


def _said(handed: Handed) -> str:
    job = handed.job
    if handed.new and job.latest:
        return f"{job.id} is handed to the cluster {job.cluster}, as {job.latest.id}\n  folder  {job.root}"
    return f"{job.id} was handed in already, and is not started again\n  folder  {job.root}"


def _follow(handed: Handed, *, as_json: bool) -> int:
    from orchestrator.cli.verbs import attach
    from orchestrator.records.finder import Subject

    click.echo(_said(handed), err=True)
    return attach.watch(Subject(handed.job.id, handed.job.root), as_json=as_json)
