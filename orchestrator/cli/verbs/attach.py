"""`orchestrator attach`: a run's progress as the terminal that started it would show it, until the run is over."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli import follow, follow_run
from orchestrator.cli.options import as_json_option, cluster_option, run_argument, storage_option, traceback_option

if TYPE_CHECKING:
    pass


@click.command()
@run_argument
@cluster_option
@storage_option
@as_json_option
@traceback_option
def attach(run: str, cluster_file: str | None, storage: str | None, as_json: bool) -> None:
    """Watch a run until it is over, and end with its exit code. RUN is an id, a unique beginning of one, or `last`.

    Ctrl-C detaches; the run goes on.
    """
    follow.on_the_head(cluster_file)
    sys.exit(follow_run.watch(follow.find(run, storage), as_json=as_json))
