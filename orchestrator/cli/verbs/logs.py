"""`orchestrator logs`: what the workers and the driver of a run printed, from run storage."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from orchestrator.cli import follow as following
from orchestrator.cli.options import as_json_option, cluster_option, run_argument, storage_option, traceback_option

if TYPE_CHECKING:
    from orchestrator.records.finder import Subject
    from orchestrator.records.logs import Line, Logs

COLORS = ("cyan", "green", "magenta", "blue", "yellow")


@click.command()
@run_argument
@click.option("--follow", "-f", is_flag=True, help="Go on showing what comes, until the run is over.")
@click.option(
    "--rank", "-r", "ranks", metavar="N", type=click.IntRange(min=0), multiple=True, help="Only this worker's."
)
@click.option("--since", metavar="WHEN", help="Only from then on: 90s, 10m, 2h or 1d ago, 09:30, or 2026-01-31T09:30.")
@click.option("--grep", metavar="REGEX", help="Only lines in which this is found.")
@click.option("--tail", "-n", metavar="N", type=click.IntRange(min=0), help="Of what is there, only the last lines.")
@click.option("--all", "noise", is_flag=True, help="Also what Ray, DeepSpeed and torch say of their own accord.")
@cluster_option
@storage_option
@as_json_option
@traceback_option
def logs(
    run: str,
    follow: bool,
    ranks: tuple[int, ...],
    since: str | None,
    grep: str | None,
    tail: int | None,
    noise: bool,
    cluster_file: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Show what a run's workers and driver printed. RUN is an id, a unique beginning of one, or `last`.

    \b
    orchestrator logs last -f
    orchestrator logs RUN --rank 1 --since 10m --grep 'loss|nan'

    It reads run storage, so it works as well when the cluster is gone. Ctrl-C detaches; the run goes on.
    """
    following.on_the_head(cluster_file)
    from orchestrator.records import logs as read

    wanted = read.Wanted(
        ranks=frozenset(ranks),
        since=read.parse_since(since, time.time()) if since else None,
        pattern=read.parse_pattern(grep) if grep else None,
        noise=noise,
    )
    found = following.find(run, storage)
    read.check_ranks(found.store, found.id, ranks, _workers(found))
    source = read.Logs(found.store, wanted)
    if follow:
        _follow(found, source, tail, as_json=as_json)
        return
    show(_ending(source, tail), as_json=as_json)
    if not read.ranks(found.store):
        now = following.standing(found)
        told = f"{found.id} is {now.state.value}{f': {now.note}' if now.note else ''}"
        click.echo(f"No worker has printed anything yet; {told}.", err=True)


def show(lines: Iterable[Line], *, as_json: bool) -> None:
    """Print lines: each with who printed it, or as an object a line."""
    for line in lines:
        if as_json:
            data = dataclasses.asdict(line)
            click.echo(json.dumps({name: data[name] for name in ("time", "rank", "node", "text")}))
        else:
            color = COLORS[line.rank % len(COLORS)] if line.rank is not None else None
            click.echo(f"{click.style(f'{line.source} |', fg=color)} {line.text}")
    sys.stdout.flush()


def _workers(found: Subject) -> int | None:
    return found.run.attempts[-1].world_size if found.run and found.run.attempts else None


def _ending(source: Logs, tail: int | None) -> Iterable[Line]:
    """What there is to read, or the last lines of it."""
    return source.lines() if tail is None else deque(source.lines(), maxlen=tail)


def _follow(found: Subject, source: Logs, tail: int | None, *, as_json: bool) -> None:
    limits = iter([tail])
    end = following.follow(
        found,
        lambda now: show(_ending(source, next(limits, None)), as_json=as_json),
        following.command("logs", found, " -f"),
    )
    if end is None:
        sys.exit(following.DETACHED)
    for line in following.failure_lines(found.fresh()):
        click.echo(line, err=True)
    click.echo(f"{found.id} {end.state.value}. More: {following.command('jobs show', found)}", err=True)
