"""Records one run in MLflow, from the driver: what it was before it starts, its metrics while it runs, its end.

Before training starts a problem is an error, quickly. From then on nothing that MLflow does or fails to do stops or
slows a run: metrics wait in run storage, and what could not be recorded is told at the end and can be sent later.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import paths
from orchestrator.config import schema
from orchestrator.errors import StorageError, TrackingError
from orchestrator.plans.types import Plan
from orchestrator.records.runs import RunRecord, Status
from orchestrator.tracking import client as mlflow_client
from orchestrator.tracking import params, tags
from orchestrator.tracking.backlog import Backlog, Point
from orchestrator.tracking.forwarder import Forwarder, Rejected
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.store import WAYS_OUT, TrackingStore, prepare

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

MAX_PARAMS = 100
"""MLflow's limit for one call; that for metrics is the forwarder's batch."""
MAX_LOG_BYTES = 20_000_000
"""Of a longer worker log only the end goes to MLflow."""
LOOK_S, REMOTE_LOOK_S = 1.0, 5.0
"""Between two looks for new metrics, on a file system and in an object store."""
STATUS = {Status.finished: "FINISHED", Status.failed: "FAILED", Status.stopped: "KILLED"}
"""Ours, and what MLflow calls it."""

log = logging.getLogger(__name__)


class MlflowSink:
    """One run in MLflow. After `start` its metrics go there as they appear in run storage, until `conclude`."""

    def __init__(self, tracking: schema.Tracking, store: TrackingStore, record: RunRecord, plan: Plan) -> None:
        self._tracking = tracking
        self._store = store
        self._record = record
        self._plan = plan
        moved = record.tracking_uri not in ("", store.shown)
        self._run_id = "" if moved else record.mlflow_run_id
        self._notes: list[str] = []
        self._storage = record.store
        self._ledger = Ledger.load(self._storage)
        self._backlog: Backlog | None = None
        self._forwarder: Forwarder | None = None
        self._connection: MlflowClient | None = None
        self._files: list[Path] = []
        """Results that lie ready to be recorded: folders, files."""

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty before `start`."""
        return self._run_id

    @property
    def forwarder(self) -> Forwarder:
        """What sends the metrics; it is there after `start`."""
        if self._forwarder is None:
            raise RuntimeError("The sink was not started.")
        return self._forwarder

    @property
    def problem(self) -> str:
        """Why MLflow could not be written to at the last try; empty when all is well."""
        return self._forwarder.problem if self._forwarder else ""

    def start(self) -> str:
        """Make the run in MLflow, or reopen it, and begin to send what it lacks. Fails within `tracking.timeout_s`."""
        prepare(self._store, self._tracking.timeout_s)
        mlflow_client.load()
        self._guarded(self._open, self._tracking.timeout_s, "record the beginning of the run")
        self._backlog = self._open_backlog()
        self._forwarder = Forwarder(
            self._backlog, self._send, period_s=REMOTE_LOOK_S if paths.is_url(self._record.root) else LOOK_S
        )
        self._forwarder.start()
        return self._run_id

    def next_attempt(self) -> None:
        """Go on with a further attempt that the record has since now, and not yet in storage."""
        if self._backlog:
            self._backlog.attempt = self._attempt

    def conclude(self, status: Status, say: Callable[[str], None]) -> list[str]:
        """Record all that is left of a run that has ended: model, logs, status. Returns what a person should know."""
        with tempfile.TemporaryDirectory(prefix="orchestrator-finish-") as scratch:
            try:
                if status is Status.finished and self._lacks_model():
                    say("recording the model")
                    self.log_model(self._storage.download(paths.MODEL, Path(scratch)))
                self._files = list(self._results(Path(scratch)))
                names = self._storage.list(paths.LOGS)
                logs = {name: self._storage.gather(f"{paths.LOGS}/{name}", Path(scratch)) for name in names}
            except StorageError as error:
                self._notes.append(f"Model and logs are not recorded in MLflow: {error.message}")
                return self.finish(status, None)
            return self.finish(status, logs)

    def log_model(self, folder: Path, timeout_s: float = 300.0) -> None:
        """Record the final model that lies in `folder`; a problem becomes a note that `finish` returns."""
        from orchestrator.tracking import model

        if not self.forwarder.flush(min(10.0, timeout_s)) and self.problem:
            self._notes.append(f"The final model is not recorded in MLflow at {self._store.shown} ({self.problem}).")
            return
        self._ledger.model = self._try(
            lambda: model.log(self._client, self._run_id, folder), timeout_s, "record the final model"
        )

    def finish(
        self, status: Status, logs: Mapping[str, str | Path] | None = None, timeout_s: float = 30.0
    ) -> list[str]:
        """Send what is left, record logs and the end; returns what the person should know, in at most `timeout_s`.

        `logs`: None when they cannot be had now.
        """
        deadline = time.monotonic() + timeout_s
        delivered = self.forwarder.close(timeout_s * 0.6)
        problem = self.problem
        if self.forwarder.superseded:
            return [*self._notes, "A later attempt of this run has begun, so MLflow is left to that one."]
        if delivered or not problem:
            left = max(1.0, deadline - time.monotonic())
            ended = self._try(lambda: self._end(status, logs or {}), left, "record logs and status")
        else:
            ended, left = False, max(1.0, min(5.0, deadline - time.monotonic()))
            self._try(lambda: self._terminate(status), left, "record the run's status")
        self._note_down(delivered, ended and logs is not None)
        return list(self._all_notes(delivered, problem))

    def leave(self) -> None:
        """End sending, and leave the run open: somebody else may be training it."""
        self.forwarder.close(0)

    @property
    def _client(self) -> MlflowClient:
        if self._connection is None:
            self._connection = mlflow_client.make_client(self._store.uri, self._tracking.timeout_s)
        return self._connection

    def _open_backlog(self) -> Backlog:
        """What MLflow lacks; all of it, when the ledger speaks of another MLflow run."""
        if self._ledger.mlflow_run_id != self._run_id:
            self._ledger = Ledger(mlflow_run_id=self._run_id)
        self._ledger.delivered, self._ledger.ended = False, 0
        self._ledger.save(self._storage)
        return Backlog(self._storage, self._ledger, created=self._record.created, attempt=self._attempt)

    @property
    def _attempt(self) -> int:
        return self._record.attempts[-1].number if self._record.attempts else 0

    # --- beginning ---------------------------------------------------------------------------------------------------
    def _open(self) -> None:
        if not (self._run_id and self._reopen()):
            self._create()
            self._log_params()
        self._log_plan()

    def _create(self) -> None:
        experiment = self._experiment()
        self._run_id = self._made_before(experiment)
        if self._run_id and self._reopen():
            return
        collected = {**tags.collect(self._record, self._plan, Path(self._record.project)), **self._tracking.tags}
        run = self._client.create_run(
            experiment.experiment_id,
            start_time=self._started_ms,
            tags=collected,
            run_name=self._record.id,
        )
        self._run_id = run.info.run_id

    def _made_before(self, experiment: Experiment) -> str:
        """The MLflow run that a driver made which then died before it could write its id down."""
        mark = f"attributes.run_name = '{self._record.id}' and attributes.start_time = {self._started_ms}"
        found = self._client.search_runs([experiment.experiment_id], filter_string=mark, max_results=1)
        return str(found[0].info.run_id) if found else ""

    @property
    def _started_ms(self) -> int:
        return int(self._record.created * 1000)

    def _experiment(self) -> Experiment:
        return experiment(self._client, self._store, self._tracking.experiment or self._plan.job)

    def _reopen(self) -> bool:
        """Go on with the run there is; say whether it is still there."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(self._run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self._tag_attempt()
        return True

    def _tag_attempt(self) -> None:
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
    def _send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
        try:
            self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        except MlflowException as error:
            if error.error_code in _REFUSALS:
                self._check_run_is_there()
                raise Rejected(mlflow_client.reason(error)) from error
            raise TrackingError(mlflow_client.reason(error)) from error

    def _check_run_is_there(self) -> None:
        """MLflow refuses points of a deleted run as it refuses wrong ones, but these can be sent when it is back."""
        if self._client.get_run(self._run_id).info.lifecycle_stage != "active":
            raise TrackingError(f"the MLflow run {self._run_id} was deleted; restore it in MLflow's page")

    # --- end ---------------------------------------------------------------------------------------------------------
    def _lacks_model(self) -> bool:
        return self._tracking.log_model and not self._ledger.model and self._storage.exists(paths.MODEL)

    def _results(self, scratch: Path) -> Iterator[Path]:
        """Folders and files of results that there are, here or as copies."""
        for name in filter(self._storage.exists, (paths.EVALUATIONS, paths.PLOTS)):
            yield self._storage.download(name, scratch)
        if self._storage.exists(paths.UNREADABLE):
            yield self._storage.fetch(paths.UNREADABLE, scratch)

    def _end(self, status: Status, logs: Mapping[str, str | Path]) -> None:
        for path in self._files:
            if path.is_dir():
                self._client.log_artifacts(self._run_id, str(path), path.name)
            else:
                self._client.log_artifact(self._run_id, str(path))
        if logs:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in logs.items():
                    (Path(folder) / Path(name).name).write_bytes(_tail(content))
                self._client.log_artifacts(self._run_id, folder, paths.LOGS)
        if len(self._record.attempts) > 1:
            self._tag_attempt()
        self._terminate(status)

    def _terminate(self, status: Status) -> None:
        ended = self._record.attempts[-1].ended if self._record.attempts else None
        moment = int(1000 * (ended or time.time()))
        self._client.set_terminated(self._run_id, STATUS.get(status, "FAILED"), end_time=moment)

    def _note_down(self, delivered: bool, ended: bool) -> None:
        """Keep what is recorded, so that the rest can be recorded later."""
        self._ledger.delivered = delivered
        self._ledger.ended = self._attempt if ended else 0
        try:
            self._ledger.save(self._storage)
        except StorageError as error:
            self._notes.append(error.message)

    def _all_notes(self, delivered: bool, problem: str) -> Iterator[str]:
        place, refused = self._store.shown, self.forwarder.rejected
        if not delivered:
            why = f" ({problem})" if problem else ""
            yield (
                f"MLflow at {place} does not have all metrics{why}; they are in run storage: "
                f"{self._record.root}/{paths.EVENTS}"
            )
        if refused:
            yield f"MLflow at {place} refused {refused} metric values: {self.forwarder.refusal}"
        yield from self._notes
        if not delivered or self._notes:
            yield f"Complete MLflow's record later with: {self.sync_command}"

    @property
    def sync_command(self) -> str:
        """What to type to record the rest."""
        return f"orchestrator runs sync {self._record.id}{self._record.storage_flag}"

    def _guarded(self, call: Callable[[], Any], timeout_s: float, what: str) -> None:
        """Call within a time; whatever goes wrong is a TrackingError that names the store."""
        try:
            mlflow_client.within(timeout_s, call, what)
        except TrackingError as error:
            raise TrackingError(f"{error.message} Store: {self._store.shown}.", error.hint or WAYS_OUT) from error
        except mlflow_client.errors() as error:
            raise TrackingError(
                f"MLflow at {self._store.shown} cannot {what}: {mlflow_client.reason(error)}.", WAYS_OUT
            ) from error

    def _try(self, call: Callable[[], Any], timeout_s: float, what: str) -> bool:
        """The same after training: what goes wrong is noted; say whether all went well."""
        try:
            self._guarded(call, timeout_s, what)
        except TrackingError as error:
            log.debug("%s", error, exc_info=True)
            self._notes.append(error.message)
            return False
        return True


def experiment(client: MlflowClient, store: TrackingStore, name: str) -> Experiment:
    """The experiment, made when it is not there. Of two runs that make it at the same time, one then finds it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        root = store.artifact_root
        try:
            client.create_experiment(name, artifact_location=f"{root}/{name}" if root else None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(
            f"The MLflow experiment {name!r} was deleted.",
            "Restore it in MLflow's page, or name another: tracking.experiment=...",
        )
    return found


_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
"""What MLflow says of points that it will never take; any other answer may change."""


def _tail(content: str | Path) -> bytes:
    if isinstance(content, str):
        return content.encode()[-MAX_LOG_BYTES:]
    with content.open("rb") as file:
        size = content.stat().st_size
        file.seek(max(0, size - MAX_LOG_BYTES))
        return file.read(MAX_LOG_BYTES)
