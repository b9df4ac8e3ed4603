"""`orchestrator runs`: what ran, what became of it, and how runs differ. Reads only run storage."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from orchestrator import paths
from orchestrator.cli.options import complete_runs, traceback_option
from orchestrator.cli.verbs.runs_sync import sync
from orchestrator.cli.views.runs import RunReport, ago, number, table, workers
from orchestrator.errors import ConfigError

STATUSES = ("created", "running", "finished", "failed", "stopped", "lost")

storage_option = click.option(
    "--storage", metavar="PATH", help="Folder or URL the runs lie in.  [default: runs]", default=None
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included.")


@click.group(invoke_without_command=True)
@storage_option
@json_option
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Newest so many.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those that stand so.")
@traceback_option
@click.pass_context
def runs(context: click.Context, storage: str | None, as_json: bool, limit: int, status: str | None) -> None:
    """List runs, newest first; look into one, compare several, or complete MLflow's record of them.

    \b
    orchestrator runs
    orchestrator runs show last
    orchestrator runs compare RUN RUN
    orchestrator runs sync --all
    """
    if context.invoked_subcommand:
        return
    from orchestrator.records.runs import list_runs

    storage = storage or "runs"
    reports = [RunReport(record) for record in reversed(list_runs(storage))]
    shown = [report for report in reports if status in (None, report.status)]
    if as_json:
        click.echo(json.dumps([report.summary() for report in shown[:limit]], indent=2))
    elif not shown:
        click.echo(_nothing(storage, status, bool(reports)))
    else:
        _list(shown, limit)


@runs.command()
@click.argument("run", shell_complete=complete_runs)
@storage_option
@json_option
@traceback_option
@click.pass_context
def show(context: click.Context, run: str, storage: str | None, as_json: bool) -> None:
    """Tell all about one run. RUN is an id, a unique beginning of one, or `last`."""
    report = _load(context, storage, run)
    if as_json or _parent(context, "as_json"):
        click.echo(json.dumps(report.to_dict(), indent=2))
        return
    for title, lines in _sections(report):
        if lines:
            click.echo(click.style(title, bold=True) if title else "", nl=bool(title))
            click.echo("\n".join(lines))


@runs.command(short_help="Show settings and results of runs side by side.")
@click.argument("first", shell_complete=complete_runs)
@click.argument("others", nargs=-1, required=True, metavar="OTHER...", shell_complete=complete_runs)
@storage_option
@json_option
@traceback_option
@click.pass_context
def compare(context: click.Context, first: str, others: tuple[str, ...], storage: str | None, as_json: bool) -> None:
    """Show settings and results of runs side by side, the best of each result marked with *."""
    reports = [_load(context, storage, run) for run in (first, *others)]
    names = [report.record.id for report in reports]
    if len(set(names)) < len(names):
        raise ConfigError(f"The same run is named twice: {', '.join(names)}.", "Name different runs.")
    settings = _differing([report.params for report in reports])
    results = {
        name: [report.results.get(name) for report in reports]
        for name in sorted({name for report in reports for name in report.results})
    }
    best = {name: _best(name, values, reports[0]) for name, values in results.items()}
    if as_json or _parent(context, "as_json"):
        columns = {"runs": names, "settings": settings, "results": results}
        click.echo(
            json.dumps({**columns, "best": {n: None if i is None else names[i] for n, i in best.items()}}, indent=2)
        )
        return
    rows = [["", *names], ["status", *(report.status for report in reports)]]
    rows += (
        [["settings that differ", *("" for _ in names)]] if settings else [["settings", *("the same" for _ in names)]]
    )
    rows += [[f"  {name}", *("-" if value is None else value for value in values)] for name, values in settings.items()]
    rows += [["results", *("" for _ in names)]]
    rows += [[f"  {name}", *_marked(values, best[name])] for name, values in results.items()]
    click.echo(table(rows))


runs.add_command(sync)


def _parent(context: click.Context, name: str) -> Any:
    """An option given before the subcommand: `runs --storage there show last`."""
    return context.parent.params.get(name) if context.parent else None


def _load(context: click.Context, storage: str | None, run: str) -> RunReport:
    from orchestrator.records.runs import load

    return RunReport(load(storage or _parent(context, "storage") or "runs", run))


def _nothing(storage: str, status: str | None, any_runs: bool) -> str:
    place = paths.absolute(storage)
    if any_runs:
        return f"No run in {place} is {status}."
    return f"There are no runs in {place} yet. Start one with: orchestrator train job=digits"


def _list(reports: list[RunReport], limit: int) -> None:
    now = time.time()
    head = ["run", "job", "status", "age", "strategy", "workers", "steps", "result"]
    rows = [
        [
            report.record.id,
            report.record.job,
            report.status,
            ago(now - report.record.created),
            report.strategy,
            report.workers,
            str(report.step),
            report.result,
        ]
        for report in reports[:limit]
    ]
    click.echo(table([head, *rows], head=True))
    if len(reports) > limit:
        click.echo(f"... and {len(reports) - limit} older: --limit {len(reports)}")
    behind = [report for report in reports[:limit] if report.lacking]
    if behind:
        names = behind[0].record.id if len(behind) == 1 else f"{len(behind)} of them"
        flag = behind[0].record.storage_flag
        click.echo(f"MLflow's record of {names} is incomplete; complete it with: orchestrator runs sync --all{flag}")


def _sections(report: RunReport) -> list[tuple[str, list[str]]]:
    """What `show` prints: titles, each with its lines."""
    return [
        ("", _facts(report)),
        ("failure", report.failure_lines()),
        ("attempts", report.attempt_lines() if len(report.record.attempts) > 1 else []),
        ("results", [f"  {name:<28} {number(value)}" for name, value in report.results.items()]),
        ("history", report.history_lines()),
        ("files", report.place_lines()),
        ("next", [f"  {command}" for command in report.next_commands()]),
    ]


def _facts(report: RunReport) -> list[str]:
    record = report.record
    facts = {
        "run": record.id,
        "job": record.job,
        "status": report.status,
        "started": f"{ago(time.time() - record.created)} ago",
        "took": report.duration,
        "trained": f"{report.step} steps with {workers(report.workers)}, {report.strategy}, {report.precision}",
        "best": record.best_checkpoint,
        "newest": record.last_checkpoint,
        "MLflow run": record.mlflow_run_id,
        "lacking": f"{', '.join(report.lacking)} in MLflow" if report.lacking else "",
    }
    return [f"{name:<11} {value}" for name, value in facts.items() if value]


def _differing(params: list[dict[str, str]]) -> dict[str, list[str | None]]:
    names = sorted({name for values in params for name in values})
    rows = {name: [values.get(name) for values in params] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _best(name: str, values: list[float | None], report: RunReport) -> int | None:
    """Which column is best; None when that cannot be told, or all are the same."""
    mode = report.better(name)
    known = [(value, column) for column, value in enumerate(values) if value is not None and value == value]
    if mode is None or len({value for value, _ in known}) < 2:
        return None
    return (min(known) if mode == "min" else max(known))[1]


def _marked(values: list[float | None], best: int | None) -> list[str]:
    return [
        "-" if value is None else f"{number(value)}{' *' if column == best else ''}"
        for column, value in enumerate(values)
    ]
