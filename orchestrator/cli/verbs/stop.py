"""`orchestrator stop`: have a run save and end, from anywhere."""

from __future__ import annotations

import sys

import click

from orchestrator.cli import follow
from orchestrator.cli.options import as_json_option, cluster_option, run_argument, storage_option, traceback_option

GRACE_S = 120.0


@click.command()
@run_argument
@click.option("--now", is_flag=True, help="At once, without a checkpoint.")
@click.option(
    "--grace", metavar="SECONDS", type=click.FloatRange(min=0), default=GRACE_S, show_default=True,
    help="Time to save and end; after that, it is ended at once.",
)  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Only ask; do not wait until it is over.")
@cluster_option
@storage_option
@as_json_option
@traceback_option
def stop(
    run: str, now: bool, grace: float, no_wait: bool, cluster_file: str | None, storage: str | None, as_json: bool
) -> None:
    """Have a run save a checkpoint and end. RUN is an id, a unique beginning of one, or `last`.

    \b
    orchestrator stop RUN                   save, then end; at once after 120 s
    orchestrator stop RUN --grace 600
    orchestrator stop RUN --now             end at once: what was not saved is lost

    Ctrl-C leaves the run to end by itself. `orchestrator resume RUN` goes on from the checkpoint.
    """
    if cluster_file:
        from orchestrator.submission import remote

        sys.exit(remote.forward(cluster_file, sys.argv[1:]))
    from orchestrator.submission import stop as stopping

    found = follow.find(run, storage)
    before = stopping.ask(found, now=now, grace_s=grace)
    if before.is_over:
        _say(f"{found.id} is over already: {before.state.value}.", before.to_dict(), as_json=as_json)
        return
    if no_wait:
        _say(f"{found.id} was asked to stop.", before.to_dict(), as_json=as_json)
        return
    try:
        end = stopping.wait(found, limit_s=0.0 if now else grace)
    except KeyboardInterrupt:
        click.echo(f"\nDetached: {found.id} was asked to stop, and ends by itself.", err=True)
        sys.exit(follow.DETACHED)
    step = "" if end.step is None else f" at step {end.step}"
    _say(f"{found.id} {end.state.value}{step}.", end.to_dict(), as_json=as_json)
    if not as_json:
        click.echo(f"next: orchestrator resume {found.id}{found.storage_flag}")


def _say(text: str, data: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        follow.echo_json(data)
    else:
        click.echo(text)
