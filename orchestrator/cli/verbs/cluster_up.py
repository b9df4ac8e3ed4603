"""`orchestrator cluster up`, `down`, `status`, `nodes`, `exec` and `validate`."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import json_option, traceback_option
from orchestrator.errors import MachineError

if TYPE_CHECKING:
    from orchestrator.cluster.launch.cluster import MachineState
    from orchestrator.cluster.launch.cluster_spec import ClusterSpec

DEFAULT_FILE = "cluster.yaml"
NOT_UP = 3
GIB = 2**30
file_argument = click.argument("file", required=False, default=DEFAULT_FILE, type=click.Path(dir_okay=False))


@click.command()
@file_argument
@json_option
@traceback_option
def up(file: str, json: bool) -> None:
    """Start what does not run of the cluster in FILE. Called again, it starts what is missing."""
    from orchestrator.cluster.launch.connected import connected

    with connected(file) as cluster:
        states = cluster.up(lambda line: click.echo(line, err=True))
    if json:
        click.echo(_to_json(cluster.spec, states))
        return
    click.echo(f"The cluster {cluster.spec.name} is up.")
    _show_machines(states)
    _show_use(cluster.spec, file)


@click.command()
@file_argument
@click.option("--delete-records", is_flag=True, help="Delete MLflow's records, too.")
@json_option
@traceback_option
def down(file: str, delete_records: bool, json: bool) -> None:
    """End the cluster in FILE. Nothing stays on its machines but MLflow's records, on the head."""
    from orchestrator.cluster.launch.connected import connected

    with connected(file) as cluster:
        records, troubles = cluster.down(delete_records=delete_records)
    kept = [f"{record.address}:{record.server['database']}" for record in records if record.server]
    kept = [] if delete_records else kept
    if json:
        click.echo(jsonlib.dumps({"was_up": bool(records), "kept": kept, "troubles": troubles}, indent=2))
    else:
        click.echo(f"The cluster {cluster.spec.name} is down." if records else "Nothing was up.")
        for place in kept:
            click.echo(f"Kept: MLflow's records, in {place}")
    if troubles:
        raise MachineError(
            "\n".join(troubles), f"What runs there stays. Repeat it later: orchestrator cluster down {file}"
        )


@click.command()
@file_argument
@json_option
@traceback_option
def status(file: str, json: bool) -> int:
    """Say whether the cluster in FILE is up. Exit code 3: it is not, or not as a whole."""
    from orchestrator.cluster.launch.connected import connected

    with connected(file) as cluster:
        states = cluster.status()
    whole = not any(machine.trouble for machine in states)
    if json:
        click.echo(_to_json(cluster.spec, states))
        return 0 if whole else NOT_UP
    some = any(machine.member and machine.member.alive for machine in states)
    click.echo(f"The cluster {cluster.spec.name} is {'up' if whole else 'not whole' if some else 'down'}.")
    _show_machines(states)
    if whole:
        _show_use(cluster.spec, file)
    return 0 if whole else NOT_UP


@click.command()
@file_argument
@json_option
@traceback_option
def nodes(file: str, json: bool) -> None:
    """List the machines that Ray has in the cluster of FILE, and what they have."""
    from orchestrator.cluster.launch.connected import connected

    with connected(file) as cluster:
        members = cluster.members()
    if json:
        click.echo(jsonlib.dumps([dataclasses.asdict(member) for member in members], indent=2))
        return
    if not members:
        raise MachineError(f"The cluster {cluster.spec.name} is not up.", f"Start it: orchestrator cluster up {file}")
    click.echo(f"{'address':<18}{'role':<8}{'state':<7}{'CPUs':>5}{'GPUs':>6}{'memory':>10}  node")
    for member in members:
        role, state = "head" if member.head else "worker", "alive" if member.alive else "dead"
        has = f"{member.cpus:>5g}{member.gpus:>6g}{f'{member.memory / GIB:.1f} GiB':>10}"
        click.echo(f"{member.address:<18}{role:<8}{state:<7}{has}  {member.node_id[:12]}")


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--on", "address", metavar="ADDRESS", help="Run it on this machine.  [default: the head]")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[FILE] [--] COMMAND...")
@traceback_option
def execute(address: str | None, words: tuple[str, ...]) -> int:
    """Run a command on the head, as part of the cluster: its Ray, its MLflow and its environment are those to use.

    \b
    orchestrator cluster exec -- orchestrator train job=digits cluster=existing
    orchestrator cluster exec other.yaml -- ray status
    """
    file, command = DEFAULT_FILE, list(words)
    if command[0].endswith((".yaml", ".yml")):
        file = command.pop(0)
    if command[:1] == ["--"]:
        command.pop(0)
    if not command:
        raise click.UsageError("There is no command to run.")
    from orchestrator.cluster.launch.connected import connected

    with connected(file) as cluster:
        if address and address not in cluster.spec.machines:
            machines = ", ".join(cluster.spec.machines)
            raise click.UsageError(f"--on {address} is no machine of {cluster.spec.name}: {machines}")
        return cluster.execute(command, address)


@click.command()
@file_argument
@click.option("--offline", is_flag=True, help="Look at the file only.")
@json_option
@traceback_option
def validate(file: str, offline: bool, json: bool) -> None:
    """Check FILE and, over SSH, its machines: are they there, alike, and with room on their disks? Starts nothing."""
    from orchestrator.cluster.launch.connected import connected

    with connected(file) as cluster:
        surveys = [] if offline else cluster.survey()
    spec = cluster.spec
    images = {address: spec.image.on(head=address == spec.head) for address in spec.machines} if spec.image else {}
    if json:
        machines: list[dict[str, Any]] = [dataclasses.asdict(survey) for survey in surveys]
        click.echo(jsonlib.dumps({"name": spec.name, "images": images, "machines": machines}, indent=2))
        return
    inside = f", in {' and '.join(dict.fromkeys(images.values()))} by {spec.image.program}" if spec.image else ""
    click.echo(f"{file}: {spec.name} has a head and {len(spec.workers)} workers{inside}.")
    for survey in surveys:
        room = ", ".join(f"{free / GIB:.0f} GiB free in {path}" for path, free in survey.free.items())
        click.echo(f"  {survey.address:<18}{survey.host:<14}Python {survey.python}, {room}")
    if not offline:
        for address in sorted(images.keys() - {survey.address for survey in surveys}):
            click.echo(f"  {address:<18}{images[address]} is not there yet: `orchestrator cluster up` pulls it")


def _to_json(spec: ClusterSpec, states: list[MachineState]) -> str:
    whole = not any(machine.trouble for machine in states)
    machines = [dataclasses.asdict(machine) for machine in states]
    return jsonlib.dumps({"name": spec.name, "up": whole, "machines": machines}, indent=2)


def _show_machines(states: list[MachineState]) -> None:
    for machine in states:
        has = machine.member
        fine = f"{has.cpus:g} CPUs, {has.gpus:g} GPUs" if has else ""
        click.echo(f"  {machine.address:<18}{machine.role:<8}{machine.trouble or fine}")


def _show_use(spec: ClusterSpec, file: str) -> None:
    from orchestrator.cluster.launch.cluster import kept
    from orchestrator.tracking.login import Login

    if spec.own.mlflow:
        place = kept(spec.name).login
        click.echo(f"MLflow: {Login.read(place).url}, user and password: {place}")
        if spec.own.listen == "loopback":
            port, host = spec.own.mlflow_port, spec.head_outside or spec.head
            user = f"{spec.ssh.user}@" if spec.ssh.user else ""
            click.echo(f"  it listens on the head only; from here: ssh -L {port}:127.0.0.1:{port} {user}{host}")
    target = "" if file == DEFAULT_FILE else f" {file}"
    click.echo(f"Train on it with: orchestrator cluster exec{target} -- orchestrator train cluster=existing ...")
