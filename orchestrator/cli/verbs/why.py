"""`orchestrator why`: what a job waits for, who holds it, and the smallest change that would start it."""

from __future__ import annotations

import click

from orchestrator.cli import follow
from orchestrator.cli.options import as_json_option, cluster_option, run_argument, storage_option, traceback_option


@click.command()
@run_argument
@cluster_option
@storage_option
@as_json_option
@traceback_option
def why(run: str, cluster_file: str | None, storage: str | None, as_json: bool) -> None:
    """Tell what a job waits for: the resource that binds, on which nodes, which runs hold it, and what would start it.

    Of a job that does not wait, one line says where it stands. RUN is an id, a unique beginning of one, or `last`.
    """
    follow.on_the_head(cluster_file)
    from orchestrator.records.why import explain

    found = follow.find(run, storage)
    told = explain(found, follow.standing(found))
    if as_json:
        follow.echo_json(told.to_dict())
    else:
        click.echo("\n".join(told.lines()))
