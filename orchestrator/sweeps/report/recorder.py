"""A sweep in MLflow: one run for the sweep, and below it one for each trial, recorded when the trial is over.

It works beside the engine and reads what lies in run storage, so that MLflow can neither slow a sweep nor end it.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import schema
from orchestrator.errors import OrchestratorError, TrackingError
from orchestrator.foundation.storage import open_store
from orchestrator.records import runs
from orchestrator.records.runs import Status
from orchestrator.sweeps.engine.ledger import LEDGER, Ledger, State, Trial
from orchestrator.sweeps.record import SWEEP, SweepRecord
from orchestrator.sweeps.report.report import Report
from orchestrator.tracking import client as mlflow_client
from orchestrator.tracking.ledger import Ledger as Sent
from orchestrator.tracking.sink import MlflowSink, experiment
from orchestrator.tracking.store import TrackingStore, prepare

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.json"
"""Which run of MLflow the sweep is."""
LOOK_S = 1.0
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
TRIAL_STATUS = {State.finished: Status.finished, State.pruned: Status.finished, State.failed: Status.failed}


class Recorder:
    """Records in a thread, from where an earlier sitting left off."""

    def __init__(self, record: SweepRecord, tracking: schema.Tracking, store: TrackingStore) -> None:
        self._record = record
        self._tracking = tracking
        self._store = store
        self._ledger = Ledger(record.store)
        self._recorded: set[int] = set()
        self._over = threading.Event()
        self._connection: MlflowClient | None = None
        self._thread = threading.Thread(target=self._follow, name="sweep recorder", daemon=True)
        self.parent = ""
        self.problem = ""

    def start(self) -> None:
        """Make the sweep's run, or find it again. Fails within `tracking.timeout_s`."""
        prepare(self._store, self._tracking.timeout_s)
        mlflow_client.load()
        self._guarded(self._open, self._tracking.timeout_s)
        self._thread.start()

    @property
    def follows(self) -> bool:
        """Whether it has begun; if not, there is nothing to end."""
        return self._thread.ident is not None

    def finish(self, state: str, plots: Callable[[Path], None]) -> list[str]:
        """Record what is left, and the sweep's end; returns what a person should know."""
        self._over.set()
        self._thread.join()
        try:
            self._record_trials()
            self._guarded(lambda: self._end(state, plots), 60.0)
        except OrchestratorError as error:
            self.problem = error.message
        if not self.problem:
            return []
        again = f"orchestrator sweep resume {self._record.name}{self._record.storage_flag}"
        return [f"MLflow lacks a part of this sweep ({self.problem}) Complete it with: {again}"]

    # --- the sweep's own run -----------------------------------------------------------------------------------------
    @property
    def _client(self) -> MlflowClient:
        if self._connection is None:
            self._connection = mlflow_client.make_client(self._store.uri, self._tracking.timeout_s)
        return self._connection

    def _open(self) -> None:
        known = self._known()
        if known:
            self.parent = known
            self._client.update_run(known, status="RUNNING")
            return
        where = experiment(self._client, self._store, self._tracking.experiment or self._record.job)
        started = int(self._record.created * 1000)
        mark = f"attributes.run_name = '{self._record.name}' and attributes.start_time = {started}"
        found = self._client.search_runs([where.experiment_id], filter_string=mark, max_results=1)
        if found:
            self.parent = str(found[0].info.run_id)
        else:
            run = self._client.create_run(
                where.experiment_id, start_time=started, tags=self._tags(), run_name=self._record.name
            )
            self.parent = run.info.run_id
            self._log_params()
        self._record.store.write(PARENT, json.dumps({"run_id": self.parent, "uri": self._store.shown}) + "\n")

    def _known(self) -> str:
        try:
            data = json.loads(self._record.store.read(PARENT))
        except FileNotFoundError:
            return ""
        return str(data["run_id"]) if data["uri"] == self._store.shown else ""

    def _tags(self) -> dict[str, str]:
        return {
            **self._tracking.tags,
            "orchestrator.sweep": self._record.name,
            "orchestrator.search": self._record.search,
            "orchestrator.scheduler": self._record.scheduler,
        }

    def _log_params(self) -> None:
        from mlflow.entities import Param

        said = {f"space/{key}": domain for key, domain in self._record.space.items()}
        said |= {"search": self._record.search, "scheduler": self._record.scheduler, "trials": str(self._record.trials)}
        params = [Param(name, value[:500]) for name, value in list(said.items())[:100]]
        self._client.log_batch(self.parent, params=params)

    def _end(self, state: str, plots: Callable[[Path], None]) -> None:
        report = Report(record=self._record, book=self._ledger.read())
        best = report.best()
        if best:
            for name in self._record.objectives:
                self._client.log_metric(self.parent, f"best/{name}", best.metrics[name], step=best.number)
            self._client.set_tag(self.parent, "orchestrator.best_trial", str(best.number))
        with tempfile.TemporaryDirectory() as folder:
            for name in (SWEEP,):
                (Path(folder) / name).write_text(self._record.store.read(name), encoding="utf-8")
            (Path(folder) / LEDGER).write_text(self._record.store.tail(LEDGER)[0], encoding="utf-8")
            plots(Path(folder))
            self._client.log_artifacts(self.parent, folder, "sweep")
        self._client.set_terminated(self.parent, STATUS.get(state, "FAILED"))

    # --- trials ------------------------------------------------------------------------------------------------------
    def _follow(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                self._record_trials()
            except Exception as error:  # noqa: BLE001  the thread's boundary: told, and tried again
                self.problem = mlflow_client.reason(error)

    def _record_trials(self) -> None:
        for number, trial in sorted(self._ledger.read().trials.items()):
            if trial.is_over and number not in self._recorded:
                self._record_trial(trial)
                self._recorded.add(number)
                self.problem = ""

    def _record_trial(self, trial: Trial) -> None:
        """Once, whatever happens in between: a trial's own ledger says what MLflow has of it."""
        root = self._record.trial_root(trial.number)
        try:
            run = runs.read(open_store(root))
        except FileNotFoundError:
            return
        sent = Sent.load(run.store)
        if (sent.delivered and sent.ended) or not run.attempts:
            return
        own = self._tracking.tags | {"mlflow.parentRunId": self.parent, "orchestrator.trial": str(trial.number)}
        own |= {"orchestrator.state": trial.state.value} | ({"orchestrator.error": trial.error} if trial.error else {})
        own |= {"orchestrator.sources": ", ".join(map(str, trial.sources))} if trial.sources else {}
        own |= {"orchestrator.smaller_micro_batch": str(trial.micro_batch)} if trial.micro_batch else {}
        tracking = dataclasses.replace(self._tracking, tags=own, log_model=False)
        sink = MlflowSink(tracking, self._store, run, run.plan)
        run.mlflow_run_id, run.tracking_uri = sink.start(), self._store.shown
        run.status = TRIAL_STATUS[trial.state]
        run.save()
        notes = sink.conclude(run.status, lambda text: None)
        self.problem = notes[0] if notes else ""
        if notes:
            raise TrackingError(notes[0])

    def _guarded(self, call: Callable[[], Any], timeout_s: float) -> None:
        try:
            mlflow_client.within(timeout_s, call, "record the sweep")
        except mlflow_client.errors() as error:
            raise TrackingError(f"MLflow at {self._store.shown}: {mlflow_client.reason(error)}.") from error
