"""`orchestrator why`: what a job waits for, who holds it, and the smallest change that would start it."""

from __future__ import annotations

import click

from orchestrator.cli import looking
from orchestrator.cli.options import traceback_option
from orchestrator.cli.submit import cluster_option


@click.command()
@looking.run_argument
@cluster_option
@looking.storage_option
@looking.json_option
@traceback_option
def why(run: str, cluster_file: str | None, storage: str | None, as_json: bool) -> None:
    """Tell what a job waits for: the resource that binds, on which nodes, which runs hold it, and what would start it.

    Of a job that does not wait, one line says where it stands. RUN is an id, a unique beginning of one, or `last`.
    """
    looking.on_the_head(cluster_file)
    from orchestrator.submit.why import explain

    found = looking.find(run, storage)
    told = explain(found, looking.standing(found))
    if as_json:
        looking.echo_json(told.to_dict())
    else:
        click.echo("\n".join(told.lines()))
