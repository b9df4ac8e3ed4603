"""Records one run in MLflow, from the driver: what it was before it starts, its metrics while it runs, its end.

Before training starts a problem is an error, quickly. From then on nothing that MLflow does or fails to do stops or
slows a run: metrics wait and are tried again, and what could not be recorded is told at the end.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import paths
from orchestrator.config import schema
from orchestrator.errors import TrackingError
from orchestrator.plan.types import Plan
from orchestrator.tracking import client as mlflow_client
from orchestrator.tracking import events, params, tags
from orchestrator.tracking.outbox import Outbox, Point, Rejected
from orchestrator.tracking.runs import RunRecord, Status
from orchestrator.tracking.store import WAYS_OUT, TrackingStore, prepare

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

MAX_PARAMS = 100
"""MLflow's limit for one call; that for metrics is the outbox's batch."""
MAX_LOG_BYTES = 20_000_000
"""Of a longer worker log only the end goes to MLflow."""
STATUS = {Status.finished: "FINISHED", Status.failed: "FAILED", Status.stopped: "KILLED"}
"""Ours, and what MLflow calls it."""

log = logging.getLogger(__name__)


class MlflowSink:
    """One run in MLflow. `start`, then `record` as events come, then `log_model` and `finish`."""

    def __init__(self, tracking: schema.Tracking, store: TrackingStore, record: RunRecord, plan: Plan) -> None:
        self._tracking = tracking
        self._store = store
        self._record = record
        self._plan = plan
        self._run_id = record.mlflow_run_id
        self._notes: list[str] = []
        self._seen: set[str] = set()
        self._outbox = Outbox(self._send)
        self._connection: MlflowClient | None = None

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty before `start`."""
        return self._run_id

    @property
    def problem(self) -> str:
        """Why MLflow could not be written to at the last try; empty when all is well."""
        return self._outbox.problem

    def start(self) -> str:
        """Make the run in MLflow, or reopen it for a further attempt. Fails within `tracking.timeout_s`."""
        prepare(self._store, self._tracking.timeout_s)
        mlflow_client.load()
        self._guarded(self._open, self._tracking.timeout_s, "record the beginning of the run")
        self._outbox.start()
        return self._run_id

    def record(self, event: events.Event) -> None:
        """Pass on the metrics of an event. Returns at once and never fails."""
        if event.kind != events.METRICS or self._is_stale(event):
            return
        step = event.step if event.step is not None else max(0, int(event.time - self._record.created))
        moment = int(event.time * 1000)
        self._put(event.data.get("metrics", {}), moment, step)

    def log_model(self, folder: Path, timeout_s: float = 300.0) -> None:
        """Record the final model that lies in `folder`; a problem becomes a note that `finish` returns."""
        from orchestrator.tracking import model

        if not self._outbox.flush(min(10.0, timeout_s)) and self.problem:
            self._notes.append(f"The final model is not recorded in MLflow at {self._store.shown} ({self.problem}).")
            return
        self._try(lambda: model.log(self._client, self._run_id, folder), timeout_s, "record the final model")

    def finish(
        self,
        status: Status,
        logs: Mapping[str, str | Path] | None = None,
        final_metrics: Mapping[str, float] | None = None,
        timeout_s: float = 30.0,
    ) -> list[str]:
        """Send what is left, record logs and the end; returns what the person should know, in at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self._put_final(final_metrics or {})
        unsent = self._outbox.close(timeout_s * 0.6)
        reached = not (unsent and self.problem)
        if reached:
            left = max(1.0, deadline - time.monotonic())
            self._try(lambda: self._end(status, logs or {}), left, "record logs and status")
        else:
            left = max(1.0, min(5.0, deadline - time.monotonic()))
            self._try(lambda: self._terminate(status), left, "record the run's status")
        return [*self._loss_notes(unsent), *self._notes]

    @property
    def _client(self) -> MlflowClient:
        if self._connection is None:
            self._connection = mlflow_client.make_client(self._store.uri, self._tracking.timeout_s)
        return self._connection

    def _is_stale(self, event: events.Event) -> bool:
        """Whether an older attempt, one that was given up, wrote this after the present one had begun."""
        if not self._record.attempts:
            return False
        current = self._record.attempts[-1]
        return event.attempt < current.number and event.time >= current.started

    # --- beginning ---------------------------------------------------------------------------------------------------
    def _open(self) -> None:
        if self._run_id:
            self._reopen()
        else:
            self._create()
            self._log_params()
        self._log_plan()

    def _create(self) -> None:
        experiment = self._experiment()
        collected = {**tags.collect(self._record, self._plan, Path(self._record.project)), **self._tracking.tags}
        run = self._client.create_run(
            experiment.experiment_id,
            start_time=int(self._record.created * 1000),
            tags=collected,
            run_name=self._record.id,
        )
        self._run_id = run.info.run_id

    def _experiment(self) -> Experiment:
        """The experiment, made when it is not there. Of two runs that make it at the same time, one then finds it."""
        from mlflow.exceptions import MlflowException

        name = self._tracking.experiment or self._plan.job
        found = self._client.get_experiment_by_name(name)
        if found is None:
            root = self._store.artifact_root
            try:
                self._client.create_experiment(name, artifact_location=f"{root}/{name}" if root else None)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise TrackingError(
                f"The MLflow experiment {name!r} was deleted.",
                "Restore it in MLflow's page, or name another: tracking.experiment=...",
            )
        return found

    def _reopen(self) -> None:
        self._client.update_run(self._run_id, status="RUNNING")
        for name, value in tags.of_attempt(self._record, self._plan).items():
            self._client.set_tag(self._run_id, name, value)

    def _log_params(self) -> None:
        from mlflow.entities import Param

        values = [Param(name, value) for name, value in params.for_mlflow(self._plan.spec).items()]
        for start in range(0, len(values), MAX_PARAMS):
            self._client.log_batch(self._run_id, params=values[start : start + MAX_PARAMS])

    def _log_plan(self) -> None:
        import json

        import yaml

        files = {
            paths.PLAN: self._plan.to_json(),
            paths.CONFIG: yaml.safe_dump(self._plan.spec, sort_keys=False),
            "deepspeed.json": json.dumps(self._plan.preferred.deepspeed, indent=2) + "\n",
        }
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            self._client.log_artifacts(self._run_id, folder, "plan")

    # --- middle ------------------------------------------------------------------------------------------------------
    def _put(self, metrics: Mapping[str, object], moment: int, step: int) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
        self._seen.update(numbers)
        self._outbox.put([Point(params.name_for_mlflow(name), value, moment, step) for name, value in numbers.items()])

    def _send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
        try:
            self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        except MlflowException as error:
            kind = Rejected if error.error_code in _FINAL else TrackingError
            raise kind(mlflow_client.reason(error)) from error

    # --- end ---------------------------------------------------------------------------------------------------------
    def _put_final(self, final_metrics: Mapping[str, float]) -> None:
        """Those final metrics that no event carried; the others would only repeat the last point of their curve."""
        missing = {name: value for name, value in final_metrics.items() if name not in self._seen}
        self._put(missing, int(time.time() * 1000), self._record.step)

    def _end(self, status: Status, logs: Mapping[str, str | Path]) -> None:
        if logs:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in logs.items():
                    (Path(folder) / Path(name).name).write_bytes(_tail(content))
                self._client.log_artifacts(self._run_id, folder, paths.LOGS)
        self._terminate(status)

    def _terminate(self, status: Status) -> None:
        self._client.set_terminated(self._run_id, STATUS.get(status, "FAILED"))

    def _loss_notes(self, unsent: int) -> Iterable[str]:
        for count, why in ((unsent, self.problem), (self._outbox.dropped, "too many waited, or MLflow refused them")):
            if count:
                yield (
                    f"{count} metric values could not be recorded in MLflow at {self._store.shown}"
                    f"{f' ({why})' if why else ''}; they are in run storage: {self._record.root}/{paths.EVENTS}"
                )

    def _guarded(self, call: Callable[[], Any], timeout_s: float, what: str) -> None:
        """Call within a time; whatever goes wrong is a TrackingError that names the store."""
        try:
            mlflow_client.within(timeout_s, call, what)
        except TrackingError as error:
            raise TrackingError(f"{error.message} Store: {self._store.shown}.", error.hint or WAYS_OUT) from error
        except _mlflow_errors() as error:
            raise TrackingError(
                f"MLflow at {self._store.shown} cannot {what}: {mlflow_client.reason(error)}.", WAYS_OUT
            ) from error

    def _try(self, call: Callable[[], Any], timeout_s: float, what: str) -> None:
        """The same after training: what goes wrong is noted."""
        try:
            self._guarded(call, timeout_s, what)
        except TrackingError as error:
            log.debug("%s", error, exc_info=True)
            self._notes.append(error.message)


_FINAL = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "INVALID_STATE")


def _mlflow_errors() -> tuple[type[Exception], ...]:
    """What calls into MLflow can raise: its own errors, and those of the network, database and folder below it."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, requests.RequestException, SQLAlchemyError, ImportError, OSError, ValueError)


def _tail(content: str | Path) -> bytes:
    if isinstance(content, str):
        return content.encode()[-MAX_LOG_BYTES:]
    with content.open("rb") as file:
        size = content.stat().st_size
        file.seek(max(0, size - MAX_LOG_BYTES))
        return file.read(MAX_LOG_BYTES)
