"""Completes MLflow's record of runs from run storage, at any later time and as often as one likes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator import paths
from orchestrator.config import schema
from orchestrator.errors import OrchestratorError, StorageError
from orchestrator.plans.types import Plan
from orchestrator.records.runs import RunRecord, Status, is_over, load, refuse_second_driver
from orchestrator.tracking.backlog import Backlog
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.sink import MlflowSink
from orchestrator.tracking.store import TrackingStore, resolve_uri, without_password

PATIENCE_S = 30.0
"""A server that takes nothing for so long is given up."""


@dataclass(kw_only=True, slots=True)
class Synced:
    """What became of one run."""

    run: str
    mlflow_run_id: str = ""
    tracking_uri: str = ""
    lacked: list[str] = field(default_factory=list)
    """What MLflow's record lacked before."""
    sent: int = 0
    """Metric values sent now."""
    notes: list[str] = field(default_factory=list)
    """What a person should know: above all, what is lacking still."""
    complete: bool = True


def lacking(record: RunRecord, plan: Plan) -> list[str]:
    """What MLflow's record of a run lacks, by the ledger alone; nothing while the run is being trained."""
    wanted = tracking_of(plan).enabled or record.mlflow_run_id
    return _lacking(record, plan, Ledger.load(record.store)) if wanted and is_over(record) else []


def _lacking(record: RunRecord, plan: Plan, ledger: Ledger) -> list[str]:
    store = record.store
    if not (ledger.mlflow_run_id or store.list(paths.EVENTS)):
        return []  # it ended before it began
    lacks_model = record.status is Status.finished and tracking_of(plan).log_model and not ledger.model
    found = {
        "metrics": not ledger.delivered,
        "the end": ledger.ended < record.attempts[-1].number,
        "the model": lacks_model and store.exists(paths.MODEL),
    }
    return [name for name, is_lacking in found.items() if is_lacking]


def sync(record: RunRecord, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> Synced:
    """Send what MLflow lacks of a run, and record its end. Refuses a run that is being trained on this machine."""
    refuse_second_driver(record)
    plan, result = record.plan, Synced(run=record.id, mlflow_run_id=record.mlflow_run_id)
    result.tracking_uri = record.tracking_uri
    if not record.attempts:
        result.notes.append("it has not been trained yet")
        return result
    result.lacked = _lacking_in_files(record, plan)
    if not result.lacked:
        return result
    store = store_of(record, plan)
    sink = MlflowSink(tracking_of(plan), store, record, plan)
    result.mlflow_run_id, result.tracking_uri = sink.start(), store.shown
    _keep(record, result)
    delivered = _send_all(sink, patience_s)
    if is_over(record):
        result.notes += sink.conclude(record.status, say)
        result.complete = not _lacking(record, plan, Ledger.load(record.store))
    else:
        sink.leave()
        result.complete = delivered
        result.notes.append(f"its driver on {record.attempts[-1].host} may still be at it, so its end is not recorded")
    result.sent = sink.forwarder.sent
    return result


def tracking_of(plan: Plan) -> schema.Tracking:
    """The tracking settings of a plan, as far as this version knows them."""
    known = {field.name for field in dataclasses.fields(schema.Tracking)}
    given = plan.spec.get("tracking", {})
    return schema.Tracking(**{name: value for name, value in given.items() if name in known})


def store_of(record: RunRecord, plan: Plan) -> TrackingStore:
    """Where the run is recorded, or would be now. Records keep no passwords: those come from settings, if at all."""
    storage = record.root.rsplit("/", 1)[0]
    try:
        named = resolve_uri(tracking_of(plan).uri, storage)
    except OrchestratorError:
        if not record.tracking_uri:
            raise
        return resolve_uri(record.tracking_uri, storage)
    return named if record.tracking_uri in ("", named.shown) else resolve_uri(record.tracking_uri, storage)


def _lacking_in_files(record: RunRecord, plan: Plan) -> list[str]:
    """The same, but also by the event files: a worker that was cut off may have written after the driver had ended."""
    ledger = Ledger.load(record.store)
    found = _lacking(record, plan, ledger)
    backlog = Backlog(record.store, ledger, created=record.created, attempt=record.attempts[-1].number)
    if "metrics" not in found and backlog.has_more():
        return ["metrics", *found]
    return found


def _keep(record: RunRecord, result: Synced) -> None:
    """Write down which MLflow run it is, unless an attempt began meanwhile: then its driver does that."""
    known = (record.mlflow_run_id, record.tracking_uri)
    record.mlflow_run_id, record.tracking_uri = result.mlflow_run_id, without_password(result.tracking_uri)
    if known == (record.mlflow_run_id, record.tracking_uri):
        return
    newest = load(record.root.rsplit("/", 1)[0], record.id)
    if len(newest.attempts) > len(record.attempts):
        raise StorageError(f"Run {record.id} was taken up by another process meanwhile.")
    record.save()


def _send_all(sink: MlflowSink, patience_s: float) -> bool:
    """As long as it takes, if only something gets through; say whether all has."""
    sent = -1
    while not (delivered := sink.forwarder.flush(patience_s)) and sink.forwarder.sent > sent:
        sent = sink.forwarder.sent
    return delivered
