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
from orchestrator.errors import ConfigError, PlanError, RunFailedError

if TYPE_CHECKING:
    from orchestrator.plans.types import Plan
    from orchestrator.records.jobs import JobRecord
    from orchestrator.records.runs import RunRecord


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
    from orchestrator.planning import planner
    from orchestrator.records import runs

    if run_id is not None:
        runs.check_id(run_id)
    if plan_file:
        refuse_config(config, plan_file)
        plan = planner.check_targets(read_plan(plan_file))
    else:
        plan = planner.make_plan(config)
    _preflight(plan)
    _carry_out(runs.create(plan, run_id), plan, as_json=config.json, verbose=config.verbose)


def refuse_config(config: ConfigArgs, plan_file: str) -> None:
    """A plan holds its config: what is said of another one would be passed over."""
    given = [repr(override) for override in config.overrides]
    given += [f"--config-dir {config.config_dir}"] if config.config_dir else []
    given += [f"--config-name {config.config_name}"] if config.config_name != "config" else []
    if given:
        raise ConfigError(
            f"--plan {plan_file} runs a plan as it stands, and cannot take {given[0]}.", "Leave out one of the two."
        )


def _preflight(plan: Plan) -> None:
    from orchestrator.config.load import spec_from_dict
    from orchestrator.runtime.driver import preflight

    preflight.check(spec_from_dict(plan.spec))


@click.command()
@click.argument("run", shell_complete=complete_runs)
@click.option(
    "--storage",
    metavar="PATH",
    help="Folder or URL the run lies in.  [default: runs, and wherever jobs were submitted to from here]",
)
@click.option(
    "--cluster",
    "cluster_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Do it on the head of the cluster in this cluster.yaml, over SSH.",
)
@json_option
@verbose_option
def resume(run: str, storage: str | None, cluster_file: str | None, json: bool, verbose: bool) -> None:
    """Go on with a run from its newest checkpoint. RUN is an id, a unique beginning of one, or `last`.

    A run that was submitted is handed to the cluster again.
    """
    if cluster_file:
        from orchestrator.submission import remote

        sys.exit(remote.forward(cluster_file, sys.argv[1:]))
    from orchestrator.records import finder, runs

    found = finder.find(run, storage)
    if found.job:
        _hand_in_again(found.job, as_json=json)
        return
    record = runs.load(found.storage, found.id)
    if record.status is runs.Status.finished:
        raise ConfigError(
            f"Run {record.id} has finished; there is nothing to go on with.",
            f"Run its plan again with: orchestrator train --plan {shlex.quote(f'{record.root}/{paths.PLAN}')}",
        )
    plan = record.plan
    _preflight(plan)
    record.store.remove(paths.STOP_REQUEST)
    _carry_out(record, plan, as_json=json, verbose=verbose)


def _hand_in_again(job: JobRecord, *, as_json: bool) -> None:
    from orchestrator.cli.verbs.submit import show
    from orchestrator.submission import enqueue

    show(enqueue.hand_in_again(job, enqueue.cluster_here()), as_json=as_json, wait=False)


def read_plan(file: str) -> Plan:
    """A plan that `orchestrator plan --out` wrote."""
    from orchestrator.plans.types import Plan

    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PlanError(
            f"Plan {file} cannot be read: {reason}.", "Make one with: orchestrator plan ... --out plan.json"
        ) from error
    return Plan.from_json(text, file)


def _unused_cluster(plan: Plan) -> str:
    from orchestrator.cluster.node import here
    from orchestrator.config.load import spec_from_dict
    from orchestrator.config.schema import LauncherName

    cluster = spec_from_dict(plan.spec).cluster
    return here.unused(cluster.address, os.environ) if cluster.launcher is LauncherName.ray else ""


def _carry_out(record: RunRecord, plan: Plan, *, as_json: bool, verbose: bool) -> None:
    """Run one attempt, shown on stderr; the summary goes to stdout."""
    from orchestrator.cli.views.progress import make_view, render_summary
    from orchestrator.cli.views.runs import RunReport
    from orchestrator.config.load import spec_from_dict
    from orchestrator.records import failure_report
    from orchestrator.runtime.driver import driver

    view = make_view(sys.stderr)
    try:
        for note in filter(None, (*plan.notes, _unused_cluster(plan))):
            view.say(f"note: {note}")
        view.say(f"run {record.id} in {record.root}")
        driver.carry_out(record, plan, spec_from_dict(plan.spec), view, follow_logs=verbose)
    except RunFailedError as error:
        raise failure_report.with_details(error, record) from error
    finally:
        view.close()
    summary = record.summary()
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        render_summary(summary, RunReport(record).look_commands(), sys.stdout)
