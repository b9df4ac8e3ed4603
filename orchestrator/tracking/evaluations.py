"""An evaluation that was made after training, into the run's record in MLflow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator import paths
from orchestrator.errors import TrackingError
from orchestrator.records.runs import RunRecord
from orchestrator.tracking import client as mlflow_client
from orchestrator.tracking import sync
from orchestrator.tracking.store import prepare


def record_in_mlflow(record: RunRecord, name: str, step: int, metrics: Mapping[str, float]) -> str:
    """Metrics as evaluate/NAME/METRIC at the checkpoint's step, files as artifacts.

    Returns why not, where MLflow cannot take them now.
    """
    plan = record.plan
    tracking = sync.tracking_of(plan)
    if not tracking.enabled or not record.mlflow_run_id:
        return ""
    store = sync.store_of(record, plan)

    def send() -> None:
        from mlflow.entities import Metric

        client = mlflow_client.make_client(store.uri, tracking.timeout_s)
        moment = int(time.time() * 1000)
        points = [Metric(f"evaluate/{name}/{metric}", value, moment, step) for metric, value in metrics.items()]
        client.log_batch(record.mlflow_run_id, metrics=points, synchronous=True)
        place = f"{paths.EVALUATIONS}/{name}"
        with tempfile.TemporaryDirectory(prefix="orchestrator-evaluation-") as scratch:
            client.log_artifacts(record.mlflow_run_id, str(record.store.download(place, Path(scratch))), place)

    try:
        prepare(store, tracking.timeout_s)
        mlflow_client.load()
        mlflow_client.within(4 * tracking.timeout_s, send, "record the evaluation")
    except TrackingError as error:
        return f"MLflow does not have it: {error.message}"
    except mlflow_client.errors() as error:
        return f"MLflow at {store.shown} does not have it: {mlflow_client.reason(error)}"
    return ""
