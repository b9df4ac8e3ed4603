"""`orchestrator train` and `orchestrator resume`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import paths
from orchestrator.cli.options import ConfigArgs, complete_runs, config_options, json_option, verbose_option
from orchestrator.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from orchestrator.plan.types import Plan
    from orchestrator.tracking.runs import RunRecord


@click.command()
@click.option(
    "--plan", "plan_file", metavar="FILE", type=click.Path(dir_okay=False), help="Run this plan as it stands."
)
@click.option("--id", "run_id", metavar="ID", help="The new run's id.  [default: job, date and time]")
@config_options
def train(config: ConfigArgs, plan_file: str | None, run_id: str | None) -> None:
    """Plan a job and run it here, or on the Ray cluster that cluster.address names.

    \b
    orchestrator train job=digits cluster.workers=2 strategy=zero2
    orchestrator plan job=digits --out plan.json && orchestrator train --plan plan.json

    Ctrl-C saves a checkpoint and stops; a second one stops at once.
    """
    if config.handled_show():
        return
    from orchestrator.cli import planning
    from orchestrator.tracking import runs

    if run_id is not None:
        runs.check_id(run_id)
    if plan_file:
        _refuse_config(config, plan_file)
        plan = planning.check_targets(read_plan(plan_file))
    else:
        plan = planning.make_plan(config)
    _preflight(plan)
    _carry_out(runs.create(plan, run_id), plan, as_json=config.json, verbose=config.verbose)


def _refuse_config(config: ConfigArgs, plan_file: str) -> None:
    """A plan holds its config; what is said of another one would be passed over."""
    given = [repr(override) for override in config.overrides]
    given += [f"--config-dir {config.config_dir}"] if config.config_dir else []
    given += [f"--config-name {config.config_name}"] if config.config_name != "config" else []
    if given:
        raise ConfigError(
            f"--plan {plan_file} runs a plan as it stands, and cannot take {given[0]}.", "Leave out one of the two."
        )


def _preflight(plan: Plan) -> None:
    from orchestrator.config.load import spec_from_dict
    from orchestrator.runtime import preflight

    preflight.check(spec_from_dict(plan.spec))


@click.command()
@click.argument("run", shell_complete=complete_runs)
@click.option("--storage", metavar="PATH", default="runs", show_default=True, help="Folder or URL the run lies in.")
@json_option
@verbose_option
def resume(run: str, storage: str, json: bool, verbose: bool) -> None:
    """Go on with a run from its newest checkpoint. RUN is an id, a unique beginning of one, or `last`."""
    from orchestrator.tracking import runs

    record = runs.load(storage, run)
    if record.status is runs.Status.finished:
        raise ConfigError(
            f"Run {record.id} has finished; there is nothing to go on with.",
            f"Run its plan again with: orchestrator train --plan {shlex.quote(f'{record.root}/{paths.PLAN}')}",
        )
    plan = record.plan
    _preflight(plan)
    _carry_out(record, plan, as_json=json, verbose=verbose)


def read_plan(file: str) -> Plan:
    """A plan that `orchestrator plan --out` wrote."""
    from orchestrator.plan.types import Plan

    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PlanError(
            f"Plan {file} cannot be read: {reason}.", "Make one with: orchestrator plan ... --out plan.json"
        ) from error
    return Plan.from_json(text, file)


def _unused_cluster(plan: Plan) -> str:
    from orchestrator.cluster import here
    from orchestrator.config.load import spec_from_dict
    from orchestrator.config.schema import LauncherName

    cluster = spec_from_dict(plan.spec).cluster
    return here.unused(cluster.address, os.environ) if cluster.launcher is LauncherName.ray else ""


def _carry_out(record: RunRecord, plan: Plan, *, as_json: bool, verbose: bool) -> None:
    """Run one attempt, shown on stderr; the summary goes to stdout."""
    from orchestrator.cli.progress import make_view, render_summary
    from orchestrator.cli.runs_report import RunReport
    from orchestrator.config.load import spec_from_dict
    from orchestrator.runtime import driver

    view = make_view(sys.stderr)
    try:
        for note in filter(None, (*plan.notes, _unused_cluster(plan))):
            view.say(f"note: {note}")
        view.say(f"run {record.id} in {record.root}")
        driver.carry_out(record, plan, spec_from_dict(plan.spec), view, follow_logs=verbose)
    finally:
        view.close()
    summary = record.summary()
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        render_summary(summary, RunReport(record).look_commands(), sys.stdout)
