"""`orchestrator rerun`: the same once more, under another id."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli import follow
from orchestrator.cli.options import ConfigArgs, complete_runs, traceback_option
from orchestrator.cli.verbs.submit import cluster_option, id_option, limit_option, show, wait_option


@click.command()
@click.argument("what", metavar="RUN|PLAN", shell_complete=complete_runs)
@id_option
@wait_option
@limit_option
@cluster_option
@follow.storage_option
@follow.json_option
@traceback_option
def rerun(
    what: str,
    run_id: str | None,
    wait: bool,
    upload_limit: str,
    cluster_file: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Submit once more what a run was, or what a plan file says.

    \b
    orchestrator rerun RUN                  its plan, and its project as it was sent then
    orchestrator rerun plan.json            this plan, and the project as it is here now
    """
    from orchestrator.submission import request

    if cluster_file:
        from orchestrator.submission import remote

        sys.exit(remote.forward(cluster_file, sys.argv[1:]))
    if what.endswith(".json") and Path(what).is_file():
        handed = request.hand_in(ConfigArgs(), what, run_id, upload_limit)
    else:
        handed = request.rerun(what, storage, run_id, upload_limit)
    sys.exit(show(handed, as_json=as_json, wait=wait))
