"""`orchestrator sweep`: search over settings, and look into searches."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import follow
from orchestrator.cli.options import (
    cluster_option,
    config_options,
    handled_show,
    json_option,
    limit_option,
    traceback_option,
    verbose_option,
    wait_option,
)
from orchestrator.config.request import ConfigArgs
from orchestrator.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from orchestrator.sweeps.definition import Definition
    from orchestrator.sweeps.record import SweepRecord
    from orchestrator.sweeps.report.report import Report

START = "start"
EXAMPLE = "orchestrator sweep job=digits optimizer.lr='tag(log,interval(1e-4,1e-1))'"


class SweepCommands(click.Group):
    """A group that takes overrides where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `start` where it is meant."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [START, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All but the one that is never written."""
        return [name for name in self.commands if name != START]


storage_option = click.option(
    "--storage", metavar="PATH", default="runs", show_default=True, help="Folder or URL the sweeps lie in."
)


def complete_sweeps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Names of the sweeps in a storage folder; a URL is not asked, since that takes seconds."""
    from orchestrator import paths
    from orchestrator.sweeps.record import names

    storage = context.params.get("storage") or "runs"
    return [] if paths.is_url(storage) else [name for name in names(storage) if name.startswith(incomplete)]


@click.group(cls=SweepCommands, invoke_without_command=True)
@click.pass_context
def sweep(context: click.Context) -> None:
    """Search over settings: values are written in Hydra's sweep grammar, or in conf/sweep/*.yaml.

    \b
    orchestrator sweep job=digits optimizer.lr=1e-3,1e-2 model.width=8,16
    orchestrator sweep job=digits optimizer.lr='tag(log,interval(1e-4,1e-1))' sweep.scheduler=asha
    orchestrator sweep --dry-run ...        the trials, or the space and first samples
    orchestrator sweep --submit ...         on the cluster that is up, while nobody waits
    orchestrator sweep --cluster FILE ...   the same on the cluster in this cluster.yaml, from a machine outside it
    orchestrator sweep best last            the best trial, and how to train it in full

    Ctrl-C saves and stops; a second one stops at once.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@sweep.command(START, hidden=True)
@click.option("--name", metavar="NAME", help="The sweep's name.  [default: job, date and time]")
@click.option("--dry-run", is_flag=True, help="Show what would be tried, and stop.")
@click.option(
    "--submit", is_flag=True, help="Hand it to the cluster that is up here; it runs there while nobody waits."
)
@wait_option
@limit_option
@cluster_option
@config_options
def start(
    config: ConfigArgs,
    name: str | None,
    dry_run: bool,
    submit: bool,
    wait: bool,
    upload_limit: str,
    cluster_file: str | None,
) -> None:
    """Search over settings."""
    if handled_show(config):
        return
    from orchestrator.runtime.driver import preflight
    from orchestrator.sweeps import record as records
    from orchestrator.sweeps.definition import define
    from orchestrator.sweeps.trials import Planner

    if name is not None:
        records.check_name(name)
    if cluster_file:
        from orchestrator.submission import remote

        sys.exit(remote.sweep(cluster_file, config, name, dry_run=dry_run, wait=wait, upload_limit=upload_limit))
    if submit and dry_run:
        from orchestrator.submission import request

        config = request.for_cluster(config)
    elif submit:
        from orchestrator.cli import follow_run
        from orchestrator.submission import sweeps

        handed = sweeps.hand_in(config, name, upload_limit)
        sys.exit(follow_run.after_submission(handed, as_json=config.json, wait=wait))
    definition = define(config.overrides, config.config_name, config.config_dir)
    planner = Planner(definition)
    planned = planner.check_all()
    if dry_run:
        from orchestrator.cli.views.sweep import dry_run as show_dry_run

        show_dry_run(definition, planner, planned, as_json=config.json)
        return
    preflight.check(definition.spec)
    plan = planned[0][1]
    record = records.create(definition, name, plan.resources.gpus, plan.preferred.world_size)
    _carry_out(record, definition, as_json=config.json)


def _carry_out(record: SweepRecord, definition: Definition, *, as_json: bool) -> None:
    from orchestrator.cli.views.sweep import as_data, make_view, summary
    from orchestrator.sweeps import driver

    view = make_view(sys.stderr)
    try:
        view.say(f"sweep {record.name} in {record.root}")
        report = driver.carry_out(record, definition, view)
    finally:
        view.close()
    click.echo(json.dumps(as_data(report), indent=2) if as_json else summary(report))


@sweep.command("list")
@cluster_option
@storage_option
@json_option
@traceback_option
def list_sweeps(storage: str, cluster_file: str | None, json: bool) -> None:
    """List sweeps, newest first."""
    follow.on_the_head(cluster_file)
    from orchestrator.cli.views.runs import table
    from orchestrator.cli.views.sweep import as_data
    from orchestrator.sweeps import record as records

    reports = [_report_on(record) for record in reversed(records.list_sweeps(storage))]
    if json:
        _print([as_data(report) for report in reports])
    elif not reports:
        click.echo(f"There are no sweeps in {storage} yet. Begin one with: {EXAMPLE}")
    else:
        head = ["sweep", "job", "status", "trials", "search", "best"]
        click.echo(table([head, *(_row(report) for report in reports)], head=True))


def _row(report: Report) -> list[str]:
    best, record = report.best(), report.record
    result = f"{report.metric} {report.value(best):.6g} (trial {best.number})" if best else "-"
    search = record.search if record.scheduler == "none" else f"{record.search}, {record.scheduler}"
    return [record.name, record.job, status(report), f"{report.over}/{record.trials}", search, result]


def status(report: Report) -> str:
    """How a sweep stands; `lost` when its process on this machine is gone."""
    import socket

    from orchestrator.sweeps.driver import lives

    book = report.book
    if book.status == "running" and book.host == socket.gethostname() and not lives(book.pid):
        return "lost"
    return book.status


@sweep.command()
@click.argument("name", shell_complete=complete_sweeps)
@cluster_option
@storage_option
@json_option
@traceback_option
def show(name: str, storage: str, cluster_file: str | None, json: bool) -> None:
    """Tell all about one sweep and its trials. NAME may be a unique beginning of it, or `last`."""
    follow.on_the_head(cluster_file)
    from orchestrator.cli.views.sweep import as_data, details, trial_data

    report = _report(storage, name)
    if json:
        _print(
            as_data(report) | {"status": status(report), "trials": [trial_data(report, n) for n in report.book.trials]}
        )
    else:
        click.echo(details(report, status(report)))


@sweep.command()
@click.argument("name", shell_complete=complete_sweeps)
@cluster_option
@storage_option
@json_option
@traceback_option
def best(name: str, storage: str, cluster_file: str | None, json: bool) -> None:
    """Print the best trial's overrides, and the command that trains it in full; of several objectives the front."""
    follow.on_the_head(cluster_file)
    from orchestrator.cli.views.sweep import trial_data

    report = _report(storage, name)
    trials = report.front() if len(report.record.objectives) > 1 else list(filter(None, [report.best()]))
    if not trials:
        raise PlanError(f"No trial of sweep {report.record.name} has finished yet.", "Wait for one, or resume it.")
    if json:
        _print([trial_data(report, trial.number) | {"command": command(report, trial.number)} for trial in trials])
        return
    for trial in trials:
        values = "  ".join(f"{metric} {trial.metrics[metric]:.6g}" for metric in report.record.objectives)
        click.echo(f"trial {trial.number}  {values}")
        click.echo("".join(f"  {line}\n" for line in trial.overrides), nl=False)
        click.echo(f"  train it in full: {command(report, trial.number)}")


def command(report: Report, number: int) -> str:
    """What to type to train a trial by itself."""
    from orchestrator.sweeps.space.grammar import split

    fixed, _ = split(report.record.overrides)
    fixed = [line for line in fixed if not line.lstrip("+~").startswith(("sweep=", "sweep."))]
    flags = ["--config-name", report.record.config_name] if report.record.config_name != "config" else []
    flags += ["--config-dir", report.record.config_dir] if report.record.config_dir else []
    return shlex.join(["orchestrator", "train", *flags, *fixed, *report.book.trials[number].overrides])


@sweep.command()
@click.argument("name", shell_complete=complete_sweeps)
@cluster_option
@storage_option
@json_option
@verbose_option
def resume(name: str, storage: str, cluster_file: str | None, json: bool, verbose: bool) -> None:
    """Go on with a sweep: what is done stays done, what was under way goes on from its checkpoints.

    One that was submitted is handed to the cluster again.
    """
    follow.on_the_head(cluster_file)
    from orchestrator.records.jobs import load as load_job
    from orchestrator.runtime.driver import preflight
    from orchestrator.sweeps import record as records

    record = records.load(storage, name)
    if job := load_job(record.root):
        from orchestrator.cli.views import job as view
        from orchestrator.submission import enqueue

        view.show(enqueue.hand_in_again(job, enqueue.cluster_here()), as_json=json)
        return
    definition = record.definition()
    preflight.check(definition.spec)
    _carry_out(record, definition, as_json=json)


@sweep.command()
@click.argument("name", shell_complete=complete_sweeps)
@cluster_option
@storage_option
@traceback_option
def stop(name: str, storage: str, cluster_file: str | None) -> None:
    """Ask a sweep to save and stop."""
    follow.on_the_head(cluster_file)
    from orchestrator.sweeps import driver
    from orchestrator.sweeps import record as records

    record = records.load(storage, name)
    if not driver.ask_to_stop(record):
        raise ConfigError(f"Sweep {record.name} is not running.", f"It is {record.book().status}.")
    click.echo(f"Sweep {record.name} is asked to stop.")


def _report(storage: str, name: str) -> Report:
    from orchestrator.sweeps import record as records

    return _report_on(records.load(storage, name))


def _report_on(record: SweepRecord) -> Report:
    from orchestrator.sweeps.report.report import Report

    return Report(record=record, book=record.book())


def _print(data: Any) -> None:
    from orchestrator.records.events import in_words

    click.echo(json.dumps(in_words(data), indent=2))
