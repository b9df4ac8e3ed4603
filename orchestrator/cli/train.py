"""`orchestrator train` and `orchestrator resume`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import paths
from orchestrator.cli.options import ConfigArgs, config_options, json_option, verbose_option
from orchestrator.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from orchestrator.plan.types import Plan
    from orchestrator.tracking.runs import RunRecord


@click.command()
@config_options
@click.option(
    "--plan", "plan_file", metavar="FILE", type=click.Path(dir_okay=False), help="Run this plan as it stands."
)
@click.option("--id", "run_id", metavar="ID", help="The new run's id.  [default: job, date and time]")
def train(config: ConfigArgs, plan_file: str | None, run_id: str | None) -> None:
    """Plan a job and run it here, or on the Ray cluster that cluster.address names.

    \b
    orchestrator train job=digits cluster.workers=2 strategy=zero2
    orchestrator plan job=digits --out plan.json && orchestrator train --plan plan.json

    Ctrl-C saves a checkpoint and stops; a second one stops at once.
    """
    if config.handled_show():
        return
    if plan_file:
        if config.overrides:
            raise ConfigError(
                f"--plan {plan_file} runs a plan as it stands, and cannot take the override {config.overrides[0]!r}.",
                "Leave out one of the two.",
            )
        plan = read_plan(plan_file)
    else:
        from orchestrator.cli.planning import make_plan

        plan = make_plan(config)
    from orchestrator.tracking import runs

    _carry_out(runs.create(plan, run_id), plan, as_json=config.json)


@click.command()
@click.argument("run")
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
            f"Run its plan again with: orchestrator train --plan {record.root}/{paths.PLAN}",
        )
    _carry_out(record, record.plan, as_json=json)


def read_plan(file: str) -> Plan:
    """A plan that `orchestrator plan --out` wrote."""
    from orchestrator.plan.types import Plan

    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(
            f"Plan {file} cannot be read: {error.strerror}.", "Make one with: orchestrator plan ... --out plan.json"
        ) from error
    return Plan.from_json(text, file)


def _carry_out(record: RunRecord, plan: Plan, *, as_json: bool) -> None:
    """Run one attempt, shown on stderr; the summary goes to stdout."""
    from orchestrator.cli.progress import make_view, render_summary
    from orchestrator.config.load import spec_from_dict
    from orchestrator.runtime import driver

    view = make_view(sys.stderr)
    try:
        for note in plan.notes:
            view.say(f"note: {note}")
        view.say(f"run {record.id} in {record.root}")
        driver.carry_out(record, plan, spec_from_dict(plan.spec), view)
    finally:
        view.close()
    summary = driver.summary(record)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        render_summary(summary, sys.stdout)
