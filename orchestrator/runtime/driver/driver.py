"""Carries a run out, attempt after attempt: starts workers, shows people what they tell, and ends in order."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator import paths
from orchestrator.config.schema import JobSpec
from orchestrator.errors import MachineError, OrchestratorError, RunFailedError, RunStoppedError, StorageError
from orchestrator.foundation.storage import Store
from orchestrator.plans.types import Plan
from orchestrator.records import events
from orchestrator.records.events import Event, EventReader, EventWriter
from orchestrator.records.failures import Cause, Failure, judge
from orchestrator.records.log_reader import LogReader
from orchestrator.records.runs import Attempt, RunRecord, Status, refuse_second_driver
from orchestrator.runtime.driver import preparing
from orchestrator.runtime.driver.growth import Growth
from orchestrator.runtime.driver.interrupts import Interrupts
from orchestrator.runtime.driver.restarts import GiveUp, RestartPolicy
from orchestrator.runtime.driver.status_events import Bulletin
from orchestrator.runtime.launchers.base import Ended, Launcher
from orchestrator.runtime.launchers.choose import make_launcher
from orchestrator.runtime.worker.context import Launch
from orchestrator.runtime.worker.script import script
from orchestrator.tracking.sink import MlflowSink
from orchestrator.tracking.store import TrackingStore, prepare, resolve_uri

POLL_S = 0.1
REMOTE_LOOK_S = 2.0
"""Between two looks for events in an object store, where each costs time and money."""
ROOM, LEAVING = "room", "leaving"
"""Causes of a restart beside failures: there is room for more workers; a node is about to be taken away."""


class View(Protocol):
    """Who is shown what happens."""

    def event(self, event: Event) -> None:
        """Something happened, in a worker or to the run."""

    def say(self, text: str) -> None:
        """The driver has something to tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """Why a further attempt is begun."""

    cause: str
    message: str
    pause_s: float = 0.0


def carry_out(
    record: RunRecord,
    plan: Plan,
    spec: JobSpec,
    view: View,
    launcher: Launcher | None = None,
    *,
    follow_logs: bool = False,
    package: str = "",
    prepares: bool = True,
) -> RunRecord:
    """Carry a run to its end. Raises when it failed, was stopped or could not start; the record always tells.

    `follow_logs`: show the workers' own output as it comes, Ray's and DeepSpeed's messages included. `package`: where
    the project of a submitted run lies; it waits for room as long as it takes, since nobody waits for it. `prepares`:
    whether there may be data to prepare; to find that out takes seconds.
    """
    refuse_second_driver(record)
    launcher = launcher or make_launcher(spec)
    with Interrupts(record.store).installed() as interrupts:
        logs = LogReader(record.store) if follow_logs else None
        driver = Driver(record, plan, spec, view, launcher, interrupts, logs, package, prepares)
        try:
            driver.start()
            driver.carry_on()
        except BaseException as error:
            interrupts.ignore()
            driver.end(_status_after(error), _told(error), getattr(error, "exit_code", None))
            if isinstance(error, KeyboardInterrupt):
                raise RunStoppedError("Stopped at once, without saving.", driver.resume_hint()) from None
            raise
        interrupts.ignore()
        driver.end(driver.outcome)
        if driver.outcome is Status.stopped:
            raise RunStoppedError(f"Saved at step {record.step} and stopped.", driver.resume_hint())
    return record


class Driver:
    """Carries one run out."""

    def __init__(
        self,
        record: RunRecord,
        plan: Plan,
        spec: JobSpec,
        view: View,
        launcher: Launcher,
        interrupts: Interrupts,
        logs: LogReader | None,
        package: str = "",
        prepares: bool = True,
    ) -> None:
        self.outcome = Status.running
        self._record = record
        self._plan = plan
        self._spec = spec
        self._view = view
        self._launcher = launcher
        self._interrupts = interrupts
        self._store: Store = record.store
        self._events = EventReader(self._store)
        self._logs = logs
        self._package = package
        self._prepares = prepares
        self._policy = RestartPolicy(spec.resilience)
        self._growth = Growth(spec.resilience.grow_interval_s)
        self._bulletin = Bulletin(self._store)
        self._attempt: Attempt | None = None
        self._sink: MlflowSink | None = None
        self._asked_to_stop = False
        self._moving: Restart | None = None
        self._restart: Restart | None = None
        """Why this attempt was begun, if not by a person, and below, the step of the newest checkpoint since then."""
        self._saved_step = -1
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
        self._begin_attempt()
        self._record.save()
        self._events.poll()
        stage = (self._record, self._plan, self._spec, self._view.say, self._interrupts.look, self._package)
        if self._prepares:
            preparing.first_stage(*stage)
        if self._spec.script is None:
            self._launch()
            self._open_tracking(tracked)
        else:  # which may record something by itself, in the same run of MLflow
            self._open_tracking(tracked)
            self._launch()

    def _open_tracking(self, tracked: TrackingStore | None) -> None:
        if tracked:
            sink = MlflowSink(self._spec.tracking, tracked, self._record, self._plan)
            self._record.mlflow_run_id = sink.start()
            self._record.tracking_uri = tracked.shown
            self._record.save()
            self._sink = sink

    def carry_on(self) -> None:
        """Attempt after attempt until the run is over. Raises when it failed."""
        while True:
            restart = self._after(self._watch())
            if restart is None:
                return
            self._begin_again(restart)

    def end(self, status: Status, error: str = "", code: int | None = None) -> None:
        """Write down how it ended, and let go of workers and tracking; trouble with tracking is only told."""
        if status is not Status.finished:
            self._launcher.kill()
        self._launcher.close()
        if self._attempt is None:
            return
        self._look_for_events(must=False)
        self._end_attempt(status, error, code)
        self._record.status = status
        self._record.save()
        if self._sink:
            for note in self._sink.conclude(status, self._view.say):
                self._view.say(f"note: {note}")

    def resume_hint(self) -> str:
        """What to type to go on."""
        return f"Go on with: orchestrator resume {self._record.id}{self._record.storage_flag}"

    # --- attempts ----------------------------------------------------------------------------------------------------
    def _begin_attempt(self, reason: str = "") -> Attempt:
        self._attempt = Attempt(
            number=len(self._record.attempts) + 1,
            started=time.time(),
            world_size=self._plan.preferred.world_size,
            host=socket.gethostname(),
            pid=os.getpid(),
            reason=reason,
        )
        self.outcome, self._moving = Status.running, None
        self._store.remove(paths.STOP)
        self._record.attempts.append(self._attempt)
        self._record.status = Status.running
        if self._sink:
            self._sink.next_attempt()
        return self._attempt

    def _end_attempt(self, status: Status, error: str, code: int | None = None) -> None:
        assert self._attempt
        self._attempt.ended, self._attempt.status = time.time(), status
        self._attempt.error, self._attempt.exit_code = error, code

    def _begin_again(self, restart: Restart) -> None:
        """End an attempt and begin the next in one stroke: in between, nobody would seem to train the run."""
        moved = self._moving is not None
        self._end_attempt(Status.stopped if moved else Status.failed, "" if moved else restart.message)
        self._restart = restart
        attempt = self._begin_attempt(restart.message)
        self._record.save()
        self._view.say(f"{restart.message}: going on from the newest checkpoint, attempt {attempt.number}")
        self._rest(restart.pause_s)
        self._launch()

    def _rest(self, pause_s: float) -> None:
        end = time.monotonic() + pause_s
        while time.monotonic() < end:
            self._look_for_interrupts()
            time.sleep(POLL_S)

    def _launch(self) -> None:
        assert self._attempt
        self._view.say(f"starting {_workers(self._attempt.world_size)}")
        launch = Launch(
            run_id=self._record.id,
            attempt=self._attempt.number,
            root=self._record.root,
            project=self._record.project,
            world_size=self._attempt.world_size,
            plan=self._plan.to_dict(),
            package=self._package,
        )
        if self._spec.script is not None:
            known = {"MLFLOW_RUN_ID": self._record.mlflow_run_id, "MLFLOW_TRACKING_URI": self._record.tracking_uri}
            launch = dataclasses.replace(launch, entry=script.ENTRY, tracking=known if self._sink else {})
        self._launcher.start(launch, self._plan.resources)
        self._deadline = time.monotonic() + self._spec.cluster.start_timeout_s

    def _after(self, ended: Ended) -> Restart | None:
        """What follows the end of an attempt; None: the run is over, in order."""
        if self.outcome is Status.stopped and self._moving and not self._asked_to_stop:
            return self._moving
        if self.outcome is not Status.running:
            return None
        self._moving = None
        failure = judge(self._failure_records(), ended.error, ended.lost)
        self._bulletin.end(self._record.attempts[-1].number, self._launcher.outlook(), failure, ended)
        decision = GiveUp() if self._asked_to_stop else self._policy.after(failure.cause, self._saved_step)
        if isinstance(decision, GiveUp):
            raise self._failed(failure, decision.reason)
        return Restart(cause=failure.cause.value, message=failure.message, pause_s=decision.pause_s)

    def _failure_records(self) -> list[dict[str, Any]]:
        prefix = f"attempt-{self._record.attempts[-1].number}-"
        names = [name for name in self._store.list(paths.FAILURES) if name.startswith(prefix)]
        return [json.loads(self._store.read(f"{paths.FAILURES}/{name}")) for name in names]

    def _failed(self, failure: Failure, reason: str) -> RunFailedError:
        log = f"Traceback and log: {self._record.root}/{paths.worker_log(failure.rank or 0)}."
        message = failure.message
        if failure.cause is Cause.lost:
            message = f"Run {self._record.id} failed: {message}."
        # What the config asks for stays wrong however often the run is resumed.
        hint = log if failure.cause is Cause.config else f"{log} {self.resume_hint()}."
        return RunFailedError(f"{message} {reason}".strip(), hint)

    # --- watching ----------------------------------------------------------------------------------------------------
    def _watch(self) -> Ended:
        """Pass events on until the workers are gone."""
        while True:
            ended = self._launcher.poll()
            if ended or time.monotonic() >= self._next_look:
                self._look_for_events(must=ended is not None)
            self._look_for_interrupts()
            if ended:
                return ended
            self._look_at_machines()
            time.sleep(POLL_S)

    def _look_for_interrupts(self) -> None:
        if not self._interrupts.look() or self._asked_to_stop:
            return
        self._asked_to_stop = True
        if not self._has_started:
            raise KeyboardInterrupt
        self._store.write(paths.STOP, "a person asked to stop\n")
        hurry = f"orchestrator stop {self._record.id} --now" if self._package else "press Ctrl-C again"
        self._view.say(f"saving a checkpoint and stopping; {hurry} to stop at once")

    def _look_at_machines(self) -> None:
        """Wait for room no longer than is allowed; stop to grow or to move, when that is called for."""
        outlook = self._launcher.outlook()
        self._bulletin.look(self._record.attempts[-1].number, outlook)
        if not self._has_started:
            self._tell_start(outlook.workers, outlook.waits_for)
            self._check_deadline(outlook.waits_for)
        elif self._moving or self._asked_to_stop:
            return
        elif outlook.leaving:
            self._move(LEAVING, f"{outlook.leaving} is about to be taken away")
        elif self._growth.is_due(outlook.room):
            self._move(ROOM, f"there is room for {_workers(outlook.room)}")

    def _move(self, cause: str, message: str) -> None:
        self._moving = Restart(cause=cause, message=message)
        self._store.write(paths.STOP, f"{message}\n")
        self._view.say(f"{message}: saving a checkpoint")

    def _tell_start(self, workers: int, waits_for: MachineError | None) -> None:
        attempt = self._attempt
        if attempt and workers and workers != attempt.world_size:
            attempt.world_size = workers
            self._view.say(f"there is room for {_workers(workers)} at the moment")
        if attempt and waits_for:
            limit = self._spec.cluster.start_timeout_s
            text = f"waiting{'' if self._package else f', at most {limit:g} s'}: {waits_for.message}"
            self._tell_once(f"waiting {attempt.number} {waits_for.message}", text)

    def _check_deadline(self, waits_for: MachineError | None) -> None:
        if self._package and waits_for:
            self._deadline = time.monotonic() + self._spec.cluster.start_timeout_s
        if time.monotonic() <= self._deadline:
            return
        within = f"within cluster.start_timeout_s={self._spec.cluster.start_timeout_s:g}"
        why = f": {waits_for.message}" if waits_for else "."
        hint = waits_for.hint if waits_for else f"See {self._record.root}/{paths.LOGS}, or give them longer."
        # The number of workers is settled for the run; before it has begun, a hint may ask for fewer.
        raise MachineError(f"The workers did not start {within}{why}", self.resume_hint() if self._restart else hint)

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
            self._note(event, self._attempt)
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

    def _note(self, event: Event, attempt: Attempt) -> None:
        record = self._record
        if event.step is not None and event.kind != events.RESTART:
            record.step = attempt.last_step = event.step
        if event.kind == events.STARTED:
            self._note_start(event, attempt)
        if event.kind == events.CHECKPOINT:
            self._saved_step = event.step or 0
            record.last_checkpoint = event.data["name"]
            if event.data["best"]:
                record.best_checkpoint = event.data["name"]
        if event.kind == events.FINISHED:
            record.final_metrics = event.data["metrics"]
            self.outcome = Status.stopped if event.data["reason"] == "stopped" else Status.finished

    def _note_start(self, event: Event, attempt: Attempt) -> None:
        attempt.world_size = event.data["world_size"]
        attempt.first_step = event.step or 0
        self._growth.begun(attempt.world_size)
        with contextlib.suppress(StorageError):  # the end of the attempt is written down in any case
            self._record.save()
            self._record_restart(event, attempt)

    def _record_restart(self, start: Event, attempt: Attempt) -> None:
        """Now that an attempt trains, what happened is known as a whole."""
        if self._restart is None:
            return
        seconds = start.time - attempt.started
        place = "what the script has saved" if start.step is None else f"step {start.step}"
        message = f"{self._restart.message}; went on from {place} with {_workers(attempt.world_size)}"
        EventWriter(self._store, "driver", attempt.number).emit(
            events.RESTART,
            start.step,
            cause=self._restart.cause,
            message=f"{message} after {seconds:.0f} s",
            world_size=attempt.world_size,
            seconds=round(seconds, 1),
        )

    @property
    def _has_started(self) -> bool:
        return self._attempt is not None and self._attempt.first_step is not None


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _status_after(error: BaseException) -> Status:
    return Status.stopped if isinstance(error, KeyboardInterrupt) else Status.failed


def _told(error: BaseException) -> str:
    """What the record keeps of an error: what happened, and in a line of its own what to do about it."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once, without saving"
    if isinstance(error, OrchestratorError):
        return f"{error.message}\n{error.hint}".strip()
    return str(error) or type(error).__name__
