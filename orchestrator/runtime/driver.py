"""Carries a run out: starts workers, watches them, shows people what they tell, and ends in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from orchestrator import errors, paths
from orchestrator.config.schema import JobSpec
from orchestrator.errors import (
    ConfigError,
    MachineError,
    OrchestratorError,
    RunFailedError,
    RunStoppedError,
    StorageError,
)
from orchestrator.plan.types import Plan
from orchestrator.runtime.context import Launch
from orchestrator.runtime.launcher import Ended, Launcher, make_launcher
from orchestrator.storage import Store
from orchestrator.tracking import events
from orchestrator.tracking.events import Event, EventReader
from orchestrator.tracking.mlflow_sink import MlflowSink
from orchestrator.tracking.runs import Attempt, RunRecord, Status, refuse_second_driver
from orchestrator.tracking.store import prepare, resolve_uri

POLL_S = 0.1
REMOTE_LOOK_S = 2.0
"""Between two looks for events in an object store, where each costs time and money."""


class View(Protocol):
    """Who is shown what happens."""

    def event(self, event: Event) -> None:
        """Something happened in a worker."""

    def say(self, text: str) -> None:
        """The driver has something to tell."""


class Interrupts:
    """Counts Ctrl-C and SIGTERM instead of being ended by them; the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From now on nothing interrupts: what is left to do is short and must be done."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Handle both signals for the time of a block."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def carry_out(
    record: RunRecord,
    plan: Plan,
    spec: JobSpec,
    view: View,
    launcher: Launcher | None = None,
    *,
    follow_logs: bool = False,
) -> RunRecord:
    """Run one attempt to its end. Raises when it failed, was stopped or could not start; the record always tells.

    `follow_logs`: show the workers' own output as it comes, Ray's and DeepSpeed's messages included.
    """
    refuse_second_driver(record)
    launcher = launcher or make_launcher(spec)
    driver = Driver(record, plan, spec, view, launcher, LogReader(record.store) if follow_logs else None)
    with Interrupts().installed() as interrupts:
        try:
            driver.start()
            driver.watch(interrupts)
        except BaseException as error:
            interrupts.ignore()
            driver.end(_status_after(error), _told(error))
            if isinstance(error, KeyboardInterrupt):
                raise RunStoppedError("Stopped at once, without saving.", driver.resume_hint()) from None
            raise
        interrupts.ignore()
        driver.end(driver.outcome)
        if driver.outcome is Status.stopped:
            raise RunStoppedError(f"Saved at step {record.step} and stopped.", driver.resume_hint())
    return record


class LogReader:
    """Reads what workers print, as it comes, from now on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursors: dict[str, int] = {}
        self.poll()

    def poll(self) -> list[str]:
        """New whole lines, each with the name of its worker."""
        lines: list[str] = []
        for name in self._store.list(paths.LOGS):
            text, self._cursors[name] = self._store.tail(f"{paths.LOGS}/{name}", self._cursors.get(name, 0))
            lines.extend(f"[{name.removesuffix('.log')}] {line}" for line in text.splitlines())
        return lines


class Driver:
    """One attempt at carrying a run out."""

    def __init__(
        self, record: RunRecord, plan: Plan, spec: JobSpec, view: View, launcher: Launcher, logs: LogReader | None
    ) -> None:
        self.outcome = Status.running
        self._record = record
        self._plan = plan
        self._spec = spec
        self._view = view
        self._launcher = launcher
        self._store = record.store
        self._events = EventReader(self._store)
        self._logs = logs
        self._attempt: Attempt | None = None
        self._sink: MlflowSink | None = None
        self._started_workers = False
        self._asked_to_stop = False
        self._told: set[str] = set()
        self._deadline = 0.0
        self._look_interval = REMOTE_LOOK_S if paths.is_url(record.root) else 0.0
        self._next_look = 0.0

    def start(self) -> None:
        """Open tracking and start the workers; both take seconds, so they go side by side."""
        self._store.check_writable()
        tracking = self._spec.tracking
        tracked = resolve_uri(tracking.uri, self._spec.storage.path) if tracking.enabled else None
        if tracked:
            prepare(tracked, tracking.timeout_s)
        attempt = self._begin_attempt()
        self._events.poll()
        self._view.say(f"starting {attempt.world_size} worker{'s' if attempt.world_size > 1 else ''}")
        launch = Launch(
            run_id=self._record.id,
            attempt=attempt.number,
            root=self._record.root,
            project=self._record.project,
            world_size=attempt.world_size,
            plan=self._plan.to_dict(),
        )
        self._launcher.start(launch, self._plan.resources)
        self._deadline = time.monotonic() + self._spec.cluster.start_timeout_s
        if tracked:
            sink = MlflowSink(tracking, tracked, self._record, self._plan)
            self._record.mlflow_run_id = sink.start()
            self._record.tracking_uri = tracked.shown
            self._record.save()
            self._sink = sink

    def watch(self, interrupts: Interrupts) -> None:
        """Pass events on until the workers are gone."""
        while True:
            ended = self._launcher.poll()
            if ended or time.monotonic() >= self._next_look:
                self._look_for_events(must=ended is not None)
            if interrupts.count and not self._asked_to_stop:
                self._ask_to_stop()
            if ended:
                break
            if not self._started_workers and time.monotonic() > self._deadline:
                raise MachineError(
                    f"The workers did not start within cluster.start_timeout_s={self._spec.cluster.start_timeout_s:g}.",
                    f"See {self._record.root}/{paths.LOGS}, or give them longer.",
                )
            time.sleep(POLL_S)
        self._conclude(ended)

    def end(self, status: Status, error: str = "") -> None:
        """Write down how it ended, and let go of workers and tracking; trouble with tracking is only told."""
        if status is not Status.finished:
            self._launcher.kill()
        self._launcher.close()
        if self._attempt is None:
            return
        self._look_for_events(must=False)
        attempt = self._attempt
        attempt.ended, attempt.status, attempt.error = time.time(), status, error
        self._record.status = status
        self._record.save()
        if self._sink:
            for note in self._sink.conclude(status, self._view.say):
                self._view.say(f"note: {note}")

    def resume_hint(self) -> str:
        """What to type to go on."""
        return f"Go on with: orchestrator resume {self._record.id}{self._record.storage_flag}"

    def _begin_attempt(self) -> Attempt:
        attempt = Attempt(
            number=len(self._record.attempts) + 1,
            started=time.time(),
            world_size=self._plan.preferred.world_size,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._store.remove(paths.STOP)
        self._attempt = attempt
        self._record.attempts.append(attempt)
        self._record.status = Status.running
        self._record.save()
        return attempt

    def _look_for_events(self, must: bool) -> None:
        """Pass new events on; a store far away may fail to answer, unless it `must`."""
        self._next_look = time.monotonic() + self._look_interval
        try:
            self._pass_events()
        except StorageError as error:
            if must or not self._look_interval:
                raise
            self._tell_once("storage", f"note: run storage does not answer, training goes on: {error.message}")

    def _pass_events(self) -> None:
        for event in self._events.poll():
            if not self._attempt or event.attempt != self._attempt.number:
                continue
            self._note(event)
            self._view.event(event)
        for line in self._logs.poll() if self._logs else ():
            self._view.say(line)
        self._tell_tracking_trouble()

    def _tell_tracking_trouble(self) -> None:
        """Say that the tracking server does not take metrics; training goes on all the same."""
        if self._sink and self._sink.problem:
            self._tell_once("tracking", f"note: tracking does not answer, training goes on: {self._sink.problem}")

    def _tell_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._view.say(text)

    def _note(self, event: Event) -> None:
        record = self._record
        if event.kind == events.STARTED:
            self._started_workers = True
        if event.step is not None:
            record.step = event.step
        if event.kind == events.CHECKPOINT:
            record.last_checkpoint = event.data["name"]
            if event.data["best"]:
                record.best_checkpoint = event.data["name"]
        if event.kind == events.FINISHED:
            record.final_metrics = event.data["metrics"]
            self.outcome = Status.stopped if event.data["reason"] == "stopped" else Status.finished

    def _ask_to_stop(self) -> None:
        self._asked_to_stop = True
        if not self._started_workers:
            raise KeyboardInterrupt
        self._store.write(paths.STOP, "a person asked to stop\n")
        self._view.say("saving a checkpoint and stopping; press Ctrl-C again to stop at once")

    def _conclude(self, ended: Ended) -> None:
        if self.outcome is Status.running:
            raise self._failure(ended)

    def _failure(self, ended: Ended) -> RunFailedError:
        """The first worker's own exception, if it left one, or else what the launcher saw."""
        number = self._record.attempts[-1].number
        failures = [
            json.loads(self._store.read(f"{paths.FAILURES}/{name}"))
            for name in self._store.list(paths.FAILURES)
            if name.startswith(f"attempt-{number}-")
        ]
        if not failures:
            message = f"Run {self._record.id} failed: {ended.error or 'the workers ended without a result'}."
            return RunFailedError(message, f"{self._log_hint(0)} {self.resume_hint()}.")
        first = min(failures, key=lambda failure: failure["time"])
        hint = self._log_hint(first["rank"])
        # What the config asks for stays wrong however often the run is resumed.
        return RunFailedError(cause_of(first), hint if is_config_error(first) else f"{hint} {self.resume_hint()}.")

    def _log_hint(self, rank: int) -> str:
        return f"Traceback and log: {self._record.root}/{paths.worker_log(rank)}."


def _status_after(error: BaseException) -> Status:
    return Status.stopped if isinstance(error, KeyboardInterrupt) else Status.failed


def cause_of(failure: dict[str, Any]) -> str:
    """A worker's exception in one line; one of ours says itself where to look."""
    message = " ".join(str(failure["message"]).split())
    if _is_one_of(OrchestratorError, failure):
        return message
    return f"{failure['type']}: {message} (worker {failure['rank']}, {failure['where']})"


def is_config_error(failure: dict[str, Any]) -> bool:
    """Whether a worker refused the config."""
    return _is_one_of(ConfigError, failure)


def _is_one_of(base: type[OrchestratorError], failure: dict[str, Any]) -> bool:
    kind = getattr(errors, str(failure["type"]), None)
    return isinstance(kind, type) and issubclass(kind, base)


def _told(error: BaseException) -> str:
    """What the record keeps of an error: what happened, and in a line of its own what to do about it."""
    if isinstance(error, OrchestratorError):
        return f"{error.message}\n{error.hint}".strip()
    return str(error) or type(error).__name__


def summary(record: RunRecord) -> dict[str, Any]:
    """What a person wants to know at the end."""
    seconds = sum((attempt.ended or attempt.started) - attempt.started for attempt in record.attempts)
    return {
        "run": record.id,
        "status": record.status.value,
        "steps": record.step,
        "seconds": round(seconds, 1),
        "metrics": record.final_metrics,
        "folder": record.root,
        "checkpoint": record.best_checkpoint or record.last_checkpoint,
        "mlflow_run_id": record.mlflow_run_id,
        "tracking_uri": record.tracking_uri,
    }
