"""`orchestrator up`, `down`, `status`: a cluster of this one machine, so that the commands that follow start fast."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import json_option, traceback_option

if TYPE_CHECKING:
    from orchestrator.cluster.node.home import Record
    from orchestrator.cluster.node.node import State

NOT_UP = 3
PORT = click.IntRange(1, 65535)


@click.command()
@click.option(
    "--storage", metavar="PATH", default="runs", show_default=True, help="Run storage whose runs MLflow shows."
)
@click.option("--cpus", metavar="N", type=click.IntRange(0), help="CPUs for workers.  [default: all]")
@click.option("--gpus", metavar="N", type=click.IntRange(0), help="GPUs for workers.  [default: all]")
@click.option("--no-mlflow", is_flag=True, help="Start no MLflow server.")
@click.option("--address", metavar="IP", help="Address that Ray listens on.  [default: 127.0.0.1, this machine only]")
@click.option("--no-token", is_flag=True, help="Let all users of this machine use Ray, as its own tools do by default.")
@click.option("--ray-port", metavar="N", type=PORT, help="Ray's port.  [default: 6379, or any free one]")
@click.option("--dashboard-port", metavar="N", type=PORT, help="Port of Ray's dashboard.  [default: 8265, or any]")
@click.option("--mlflow-port", metavar="N", type=PORT, help="MLflow's port.  [default: 5000, or any free one]")
@json_option
@traceback_option
def up(
    storage: str,
    cpus: int | None,
    gpus: int | None,
    no_mlflow: bool,
    address: str | None,
    no_token: bool,
    ray_port: int | None,
    dashboard_port: int | None,
    mlflow_port: int | None,
    json: bool,
) -> None:
    """Start Ray and an MLflow server on this machine; they stay until `orchestrator down`."""
    from orchestrator.cluster.node import home, local, node

    settings = local.LocalSettings(
        storage=storage,
        address=address or "127.0.0.1",
        token=not no_token,
        mlflow=not no_mlflow,
        cpus=cpus,
        gpus=gpus,
        ray_port=ray_port,
        dashboard_port=dashboard_port,
        mlflow_port=mlflow_port,
    )
    was_up = node.status(home.THIS_MACHINE).up
    local.up(settings, lambda line: click.echo(line, err=True))
    state = node.status(home.THIS_MACHINE)
    if json:
        click.echo(_to_json(state))
        return
    click.echo("The cluster of this machine is up already." if was_up else "The cluster of this machine is up.")
    _show(state)


@click.command()
@json_option
@traceback_option
def down(json: bool) -> None:
    """End what `orchestrator up` started. MLflow's records stay."""
    from orchestrator.cluster.node import home, node

    record = node.down(home.THIS_MACHINE)
    if json:
        click.echo(jsonlib.dumps({"was_up": record is not None, "kept": _kept(record)}, indent=2))
    elif record is None:
        click.echo("Nothing was up.")
    else:
        click.echo("The cluster of this machine is down.")
        for path in _kept(record):
            click.echo(f"Kept: MLflow's records, in {path}; to look at them: orchestrator ui")


@click.command()
@json_option
@traceback_option
def status(json: bool) -> int:
    """Show what `orchestrator up` started. Exit code 3: it is not up."""
    from orchestrator.cluster.node import home, node

    state = node.status(home.THIS_MACHINE)
    if json:
        click.echo(_to_json(state))
    elif state.record is None:
        click.echo("The cluster of this machine is down. Start it with: orchestrator up")
    else:
        click.echo(f"The cluster of this machine is {'up' if state.up else 'broken'}.")
        _show(state)
    return 0 if state.up else NOT_UP


def _to_json(state: State) -> str:
    return jsonlib.dumps({"up": state.up, **dataclasses.asdict(state)}, indent=2)


def _show(state: State) -> None:
    from orchestrator.cluster.node import home
    from orchestrator.cluster.node.home import Record

    if state.record is None:
        return
    record, place = Record(**state.record), home.of(state.record["name"])
    shown = {"ray": record.ray, "mlflow": f"{record.mlflow}  user and password: {place.login}"}
    for name, lives in state.services.items():
        click.echo(f"  {name:<10}{shown[name] if lives else f'has ended; what it said: {place.log(name)}'}")
    click.echo(f"  dashboard {record.dashboard}  token: {place.token}" if place.token.exists() else "")
    if state.up:
        click.echo("Train on it with: orchestrator train cluster=existing ...")
    else:
        click.echo("To start what is missing: orchestrator up")


def _kept(record: Record | None) -> list[str]:
    return [record.server["database"]] if record and record.server else []
