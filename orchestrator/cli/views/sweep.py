"""A sweep in words: before it begins, while it runs, and afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from orchestrator.cli.views.runs import ago, table

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.plans.types import Plan
    from orchestrator.sweeps.definition import Definition
    from orchestrator.sweeps.engine.ledger import Trial
    from orchestrator.sweeps.report.report import Report
    from orchestrator.sweeps.trials import Planner

SHOWN = 20
"""Trials of a dry run that are shown."""


def dry_run(definition: Definition, planner: Planner, planned: Sequence[tuple[Any, Plan]], *, as_json: bool) -> None:
    """What would be tried."""
    from orchestrator.sweeps.trials import concurrency

    plan, space = planned[0][1], definition.space
    at_once = concurrency(definition, plan, planner.inventory)
    overrides = [space.overrides(values) for values, _ in planned]
    rungs = definition.rungs
    if as_json:
        data = {
            "space": {parameter.key: str(parameter.domain) for parameter in space.parameters},
            "search": definition.search.value,
            "scheduler": definition.settings.scheduler.value,
            "trials": definition.trials,
            "objectives": definition.objectives,
            "rungs": rungs,
            "at_once": at_once,
            "workers": plan.preferred.world_size,
            "resources": {"cpus": plan.resources.cpus, "gpus": plan.resources.gpus},
            "samples": overrides,
        }
        click.echo(json.dumps(data, indent=2))
        return
    click.echo("\n".join(_facts(definition, plan, at_once)))
    for line in [" ".join(lines) for lines in overrides[:SHOWN]]:
        click.echo(f"  {line}")
    if definition.trials > min(SHOWN, len(overrides)):
        click.echo(f"  ... and {definition.trials - min(SHOWN, len(overrides))} more")


def _facts(definition: Definition, plan: Plan, at_once: int) -> list[str]:
    held = f"{plan.preferred.world_size} x {plan.resources.cpus:g} CPU"
    held += f", {plan.resources.gpus:g} GPU each" if plan.resources.gpus else ""
    goal = ", ".join(f"{mode} {metric}" for metric, mode in definition.objectives.items())
    scheduler = definition.settings.scheduler.value
    rungs = f"at {', '.join(map(str, definition.rungs))} {definition.unit}" if definition.rungs else ""
    each = f"of {definition.length:g} {definition.unit}, at most {definition.trials * definition.length:g} in all"
    listed = "trials" if definition.search.value == "grid" else "first random samples, as a check of the space"
    facts = {
        "search": f"{definition.search.value} for {goal}",
        "scheduler": f"{scheduler} {rungs}".strip(),
        "trials": f"{definition.trials} {each if definition.length else ''}".strip(),
        "each holds": held,
        "at once": str(at_once),
        "measured": _estimate(definition, at_once),
    }
    lines = [f"{name:<11} {value}" for name, value in facts.items() if value]
    lines += ["", "space"]
    for parameter in definition.space.parameters:
        when = f"  when {parameter.when.text}" if parameter.when else ""
        lines.append(f"  {parameter.key:<24} {parameter.domain}{when}")
    return [*lines, "", listed]


def _estimate(definition: Definition, at_once: int) -> str:
    """How long earlier runs of this job took, carried over to all trials; empty when there are none."""
    from orchestrator.sweeps.estimate import seconds_per_unit

    found = seconds_per_unit(definition)
    if found is None:
        return ""
    each = found * definition.length
    total = each * definition.trials
    return f"{_span(each)} a trial by an earlier run, {_span(total / at_once)} in all, if none ends early"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- while it runs ---------------------------------------------------------------------------------------------------


class PlainView:
    """A line for each trial that ends, made for log files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: set[int] = set()

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=self._stream, flush=True)

    def show(self, report: Report) -> None:
        """Tell of trials that are over since the last time."""
        for number, trial in sorted(report.book.trials.items()):
            if trial.is_over and trial.ended and trial.ended >= report.book.began and number not in self._told:
                self._told.add(number)
                self.say(_line(report, trial))

    def close(self) -> None:
        """Nothing to let go of."""


class LiveView:
    """How many trials stand how, the best so far, what was spent and saved, and the time to go."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._live = Live(console=console, transient=True, refresh_per_second=4)
        self._live.start()

    def say(self, text: str) -> None:
        """A line above."""
        self._live.console.print(text, highlight=False, markup=False)

    def show(self, report: Report) -> None:
        """Draw it anew; brackets in values are no markup."""
        from rich.text import Text

        self._live.update(Text("\n".join(standing(report))))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()


def make_view(stream: TextIO) -> PlainView | LiveView:
    """The view that fits where output goes."""
    from rich.console import Console

    console = Console(file=stream)
    return PlainView(stream) if not console.is_terminal or console.is_dumb_terminal else LiveView(console)


def standing(report: Report) -> list[str]:
    """The lines of the live view."""
    best, eta = report.best(), report.eta_s
    counts = "  ".join(f"{count} {name}" for name, count in report.counts().items())
    saved = f", {report.saved:.3g} saved by ending trials early" if report.saved else ""
    return [
        f"{report.over}/{report.record.trials} trials  {counts}",
        f"best   {_line(report, best)}" if best else "best   none has finished yet",
        f"spent  {report.spent:.3g} {report.unit}{saved}" + (f"   ETA {_span(eta)}" if eta is not None else ""),
    ]


def _line(report: Report, trial: Trial) -> str:
    values = "  ".join(
        f"{name} {trial.metrics[name]:.6g}" for name in report.record.objectives if name in trial.metrics
    )
    at = f" at {trial.at:g} {report.record.unit}" if trial.state.value == "pruned" else ""
    what = trial.error or values
    return f"trial {trial.number} {trial.state.value}{at}  {what}  {' '.join(trial.overrides)}{_smaller(trial)}"


def _smaller(trial: Trial) -> str:
    return f"  (micro_batch={trial.micro_batch}: it ran out of memory)" if trial.micro_batch else ""


# --- afterwards ------------------------------------------------------------------------------------------------------


def summary(report: Report) -> str:
    """What a person wants to know at the end."""
    record = report.record
    counts = ", ".join(f"{count} {name}" for name, count in report.counts().items())
    saved = f", {report.saved:.3g} saved" if report.saved else ""
    several = len(record.objectives) > 1
    trials = report.front() if several else list(filter(None, [report.best()]))
    lines = [
        f"sweep {record.name}: {counts} in {_span(report.elapsed_s)}, {report.spent:.3g} {report.unit}{saved}",
        f"  {report.book.message}" if report.book.message else "",
        *(f"  {'front' if several else 'best '}  {_line(report, trial)}" for trial in trials),
        f"  folder {record.root}",
        "",
        f"next: orchestrator sweep best {record.name}{record.storage_flag}",
        f"      orchestrator sweep show {record.name}{record.storage_flag}",
    ]
    return "\n".join(line for number, line in enumerate(lines) if line or number == len(lines) - 3)


def details(report: Report, status: str) -> str:
    """All about one sweep."""
    record, book = report.record, report.book
    facts = {
        "sweep": record.name,
        "job": record.job,
        "status": f"{status}{f': {book.message}' if book.message else ''}",
        "started": f"{ago(time.time() - record.created)} ago",
        "search": record.search if record.scheduler == "none" else f"{record.search} with {record.scheduler}",
        "goal": ", ".join(f"{mode} {metric}" for metric, mode in record.objectives.items()),
        "spent": f"{report.spent:.3g} {report.unit}, {report.saved:.3g} saved by ending trials early",
        "folder": record.root,
    }
    lines = [f"{name:<9} {value}" for name, value in facts.items()]
    lines += ["", *(f"  {key:<24} {domain}" for key, domain in record.space.items()), ""]
    ranked = report.ranked()
    others = [t for _, t in sorted(book.trials.items()) if t not in ranked]
    rows = [["trial", "state", record.unit, *record.objectives, "values"]]
    for trial in [*ranked, *others]:
        at = record.length if trial.state.value == "finished" else trial.at
        values = [f"{trial.metrics[name]:.6g}" if name in trial.metrics else "-" for name in record.objectives]
        said = trial.error or " ".join(trial.overrides)
        rows.append([str(trial.number), trial.state.value, f"{at:g}", *values, f"{said}{_smaller(trial)}"])
    return "\n".join([*lines, table(rows, head=True)])


# --- as data ---------------------------------------------------------------------------------------------------------


def trial_data(report: Report, number: int) -> dict[str, Any]:
    """One trial."""
    trial = report.book.trials[number]
    return {
        "number": number,
        "state": trial.state.value,
        "overrides": trial.overrides,
        "metrics": trial.metrics,
        "at": trial.at,
        "seconds": round(trial.seconds, 3),
        "micro_batch_after_out_of_memory": trial.micro_batch,
        "error": trial.error,
        "folder": report.record.trial_root(number),
    }


def as_data(report: Report) -> dict[str, Any]:
    """A sweep, without its trials."""
    record, best = report.record, report.best()
    return {
        "sweep": record.name,
        "status": report.book.status,
        "folder": record.root,
        "objectives": record.objectives,
        "counts": report.counts(),
        "best": trial_data(report, best.number) if best else None,
        "hours": {"unit": report.unit, "spent": report.spent, "saved": report.saved},
    }
