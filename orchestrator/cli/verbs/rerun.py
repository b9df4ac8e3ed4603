"""`orchestrator rerun`: the same once more, under another id."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli import follow_run
from orchestrator.cli.options import (
    as_json_option,
    cluster_option,
    complete_runs,
    id_option,
    limit_option,
    storage_option,
    traceback_option,
    wait_option,
)
from orchestrator.config.request import ConfigArgs


@click.command()
@click.argument("what", metavar="RUN|PLAN", shell_complete=complete_runs)
@id_option
@wait_option
@limit_option
@cluster_option
@storage_option
@as_json_option
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
    sys.exit(follow_run.after_submission(handed, as_json=as_json, wait=wait))
