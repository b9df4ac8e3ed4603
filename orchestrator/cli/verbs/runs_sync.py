"""`orchestrator runs sync`: completes MLflow's record of runs whose driver could not."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import complete_runs, traceback_option
from orchestrator.errors import MachineError, OrchestratorError, TrackingError

if TYPE_CHECKING:
    from orchestrator.records.runs import RunRecord
    from orchestrator.tracking.sync import Synced


@click.command(short_help="Send to MLflow what it lacks of runs.")
@click.argument("run", nargs=-1, metavar="[RUN]...", shell_complete=complete_runs)
@click.option("--all", "every", is_flag=True, help="All runs of which MLflow lacks something.")
@click.option("--storage", metavar="PATH", help="Folder or URL the runs lie in.  [default: runs]", default=None)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included.")
@traceback_option
@click.pass_context
def sync(context: click.Context, run: tuple[str, ...], every: bool, storage: str | None, as_json: bool) -> None:
    """Send to MLflow what it lacks of runs: metrics, logs, model and status, from run storage.

    \b
    orchestrator runs sync last
    orchestrator runs sync --all

    It can be interrupted and repeated: MLflow keeps each value once.
    """
    if bool(run) == every:
        raise click.UsageError("Name runs, or say --all.", context)
    parent: dict[str, Any] = context.parent.params if context.parent else {}
    storage = storage or parent.get("storage") or "runs"
    as_json = as_json or bool(parent.get("as_json"))
    records = _incomplete(storage) if every else _named(storage, run)
    results = [_sync(record, tolerant=every) for record in records]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(result) for result in results], indent=2))
    else:
        click.echo("\n".join(line for result in results for line in _lines(result)) or "Nothing is lacking.")
    if not all(result.complete for result in results):
        context.exit(MachineError.exit_code)


def _named(storage: str, names: tuple[str, ...]) -> list[RunRecord]:
    from orchestrator.records.runs import load

    return [load(storage, name) for name in names]


def _incomplete(storage: str) -> list[RunRecord]:
    from orchestrator.cli.views.runs import RunReport
    from orchestrator.records.runs import list_runs

    return [record for record in list_runs(storage) if RunReport(record).lacking]


def _sync(record: RunRecord, *, tolerant: bool) -> Synced:
    """One run. Of many, one that cannot be synced does not keep the others from it."""
    from orchestrator.tracking.sync import Synced, sync

    try:
        return sync(record, say=lambda text: click.echo(f"{record.id}: {text}", err=True))
    except TrackingError as error:
        # The way out of a dead server at the start of a training is none here.
        if not tolerant:
            raise TrackingError(error.message, "Run it again when that is mended.") from error
        return Synced(run=record.id, notes=[error.message], complete=False)
    except OrchestratorError as error:
        if not tolerant:
            raise
        return Synced(run=record.id, notes=[str(error)], complete=False)


def _lines(result: Synced) -> list[str]:
    if not result.lacked and not result.notes:
        return [f"{result.run}: nothing is lacking in MLflow at {result.tracking_uri}"]
    head = f"{result.run}: {result.sent} metric values sent to {result.tracking_uri}" if result.lacked else result.run
    lacked = f" (lacked: {', '.join(result.lacked)})" if result.lacked else ""
    return [f"{head}{lacked}", *(f"  note: {note}" for note in result.notes)]
