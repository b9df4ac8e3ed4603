"""`orchestrator submit`: hand a job to the cluster, and walk away."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli import follow_run
from orchestrator.cli.options import cluster_option, config_options, handled_show, id_option, limit_option, wait_option
from orchestrator.config.request import ConfigArgs

if TYPE_CHECKING:
    pass


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
    if handled_show(config):
        return
    if cluster_file:
        from orchestrator.submission import remote

        sys.exit(remote.submit(cluster_file, config, plan_file, run_id, wait=wait, upload_limit=upload_limit))
    from orchestrator.submission import request

    handed = request.hand_in(config, plan_file, run_id, upload_limit)
    sys.exit(follow_run.after_submission(handed, as_json=config.json, wait=wait))
