"""`orchestrator plan`: exactly what would run, without running it."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import config_options, handled_show
from orchestrator.config.request import ConfigArgs


@click.command()
@click.option("--out", metavar="FILE", type=click.Path(dir_okay=False), help="Write the plan as JSON to this file too.")
@click.option(
    "--cluster",
    "cluster_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Plan for the nodes of this cluster.yaml instead of asking the live cluster.",
)
@config_options
def plan(config: ConfigArgs, out: str | None, cluster_file: str | None) -> None:
    """Show exactly what would run and where: workers, nodes, batch, DeepSpeed settings, every possible worker count.

    \b
    orchestrator plan job=digits
    orchestrator plan job=digits cluster.workers=2..8 strategy=zero2
    orchestrator plan job=digits --cfg job              the composed config instead
    orchestrator plan job=digits --json > plan.json     the plan as data
    orchestrator plan job=digits cluster=existing --cluster cluster.yaml    on machines that do not run yet
    """
    if handled_show(config):
        return
    from orchestrator.planning.planner import make_plan

    made = make_plan(config, cluster_file=cluster_file)
    if out:
        _write(Path(out), made.to_json())
    if config.json:
        click.echo(made.to_json(), nl=False)
        return
    from rich.console import Console

    from orchestrator.cli.views.plan import render

    console = Console()
    with console.capture() as shown:
        render(made, console)
    click.echo("\n".join(line.rstrip() for line in shown.get().splitlines()))
    if out:
        click.echo(f"Written to {out}")


def _write(path: Path, text: str) -> None:
    from orchestrator.errors import ConfigError
    from orchestrator.foundation.storage import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror}.", "Name a file you can write.") from error
