"""`orchestrator train` and `orchestrator resume`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from orchestrator import paths
from orchestrator.cli.options import (
    cluster_option,
    config_options,
    handled_show,
    json_option,
    run_argument,
    storage_option,
    verbose_option,
)
from orchestrator.config.request import ConfigArgs
from orchestrator.errors import ConfigError, RunFailedError

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
    if handled_show(config):
        return
    from orchestrator.planning import planner
    from orchestrator.planning.plan_file import read_plan, refuse_config
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


def _preflight(plan: Plan) -> None:
    from orchestrator.config.load import spec_from_dict
    from orchestrator.runtime.driver import preflight

    preflight.check(spec_from_dict(plan.spec))


@click.command()
@run_argument
@storage_option
@cluster_option
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
    from orchestrator.cli.views import job as view
    from orchestrator.submission import enqueue

    view.show(enqueue.hand_in_again(job, enqueue.cluster_here()), as_json=as_json)


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
