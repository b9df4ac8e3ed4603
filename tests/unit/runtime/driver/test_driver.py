"""The driver, with a launcher that plays what workers may do, and real run storage."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator import paths
from orchestrator.config.schema import Cluster, JobSpec, Resilience, Storage, Tracking
from orchestrator.errors import MachineError, PlanError, RunFailedError, RunStoppedError, StorageError
from orchestrator.plans.types import WorkerResources
from orchestrator.records import events, runs
from orchestrator.records.events import Event, EventWriter
from orchestrator.records.runs import Attempt, RunRecord, Status
from orchestrator.runtime.driver import driver, preparing
from orchestrator.runtime.launchers.base import Ended, Outlook
from orchestrator.runtime.worker.context import Launch
from tests.unit.plans.plan_specs import plan, spec

Act = Callable[["Actors"], Ended | None]
Run = Callable[..., "tuple[Actors, Shown, BaseException | None]"]


@dataclass
class Actors:
    """A launcher whose workers do one act at each poll, and nothing more when all acts are played."""

    acts: list[Act]
    launch: Launch | None = None
    seen: Outlook = field(default_factory=Outlook)
    killed: int = 0
    closed: int = 0

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        self.launch = launch

    def poll(self) -> Ended | None:
        return self.acts.pop(0)(self) if self.acts else None

    def outlook(self) -> Outlook:
        return self.seen

    def kill(self) -> None:
        self.killed += 1

    def close(self) -> None:
        self.closed += 1

    def writer(self) -> EventWriter:
        assert self.launch
        return EventWriter(runs.open_store(self.launch.root), "rank-0", self.launch.attempt)


@dataclass
class Shown:
    """A view that keeps all."""

    events: list[Event] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def say(self, text: str) -> None:
        self.said.append(text)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def emits(kind: str, step: int | None = 0, **data: Any) -> Act:
    return lambda actors: actors.writer().emit(kind, step, **data)


def starts(step: int = 0) -> Act:
    return emits(events.STARTED, step, world_size=1, total_steps=10)


def finishes(reason: str = "done", step: int = 10) -> Act:
    return emits(events.FINISHED, step, reason=reason, metrics={"val/loss": 0.5})


def saves(step: int, best: bool = False) -> Act:
    return emits(events.CHECKPOINT, step, name=f"step-{step:08d}", best=best)


def leave(error: str = "") -> Act:
    return lambda actors: Ended(error=error)


def interrupt(actors: Actors) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate(actors: Actors) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fails(rank: int, at: float, message: str, attempt: int | None = None) -> Act:
    def act(actors: Actors) -> None:
        assert actors.launch
        failure = {"rank": rank, "time": at, "type": "ValueError", "message": message, "where": "task.py:3"}
        number = attempt or actors.launch.attempt
        runs.open_store(actors.launch.root).write(paths.failure(number, rank), json.dumps(failure))

    return act


def leaves_when_asked_to_stop(actors: Actors) -> Ended | None:
    """Workers that save and end as soon as the stop file lies there."""
    assert actors.launch
    if not (Path(actors.launch.root) / paths.STOP).exists():
        actors.acts.insert(0, leaves_when_asked_to_stop)
        return None
    saves(6)(actors)
    finishes("stopped", 6)(actors)
    return Ended()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "POLL_S", 0.001)
    # The plans here name no Task and no data that could be prepared.
    monkeypatch.setattr(preparing, "request_for", lambda *_: None)


@pytest.fixture(autouse=True)
def same_signal_handlers_after_as_before() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def wanted(tmp_path: Path) -> JobSpec:
    return spec(
        storage=Storage(path=str(tmp_path / "runs")),
        tracking=Tracking(enabled=False),
        resilience=Resilience(max_failures=0),
    )


@pytest.fixture
def record(wanted: JobSpec) -> RunRecord:
    return runs.create(plan(wanted), "demo-1")


@pytest.fixture
def carry_out(record: RunRecord, wanted: JobSpec) -> Run:
    """Let workers act; whatever is raised is returned."""

    def run(
        *acts: Act, spec: JobSpec = wanted, record: RunRecord = record
    ) -> tuple[Actors, Shown, BaseException | None]:
        actors, shown = Actors(list(acts)), Shown()
        try:
            driver.carry_out(record, record.plan, spec, shown, actors)
        except Exception as error:  # noqa: BLE001 - the tests look at it
            return actors, shown, error
        return actors, shown, None

    return run


def test_a_run_that_ends_in_order_is_finished(carry_out: Run, record: RunRecord, wanted: JobSpec) -> None:
    actors, shown, error = carry_out(starts(), saves(5, best=True), saves(10), finishes(), leave())
    assert error is None
    assert shown.kinds() == [events.STARTED, events.CHECKPOINT, events.CHECKPOINT, events.FINISHED]
    kept = runs.load(wanted.storage.path, "demo-1")
    assert kept == record
    assert (kept.status, kept.step) == (Status.finished, 10)
    assert (kept.best_checkpoint, kept.last_checkpoint) == ("step-00000005", "step-00000010")
    assert kept.final_metrics == {"val/loss": 0.5}
    (attempt,) = kept.attempts
    assert (attempt.number, attempt.status, attempt.error, attempt.pid) == (1, Status.finished, "", os.getpid())
    assert attempt.ended >= attempt.started
    assert (actors.killed, actors.closed) == (0, 1)
    assert (actors.launch.attempt, actors.launch.run_id, actors.launch.root) == (1, "demo-1", record.root)


def test_workers_that_say_nothing_have_failed(carry_out: Run, record: RunRecord) -> None:
    actors, _, error = carry_out(starts(), leave("Signal 9 (SIGKILL) received by PID 7"))
    assert isinstance(error, RunFailedError)
    assert error.message == "Run demo-1 failed: Signal 9 (SIGKILL) received by PID 7."
    assert "orchestrator resume demo-1" in error.hint
    assert f"{record.root}/logs/rank-0.log" in error.hint
    assert record.status is record.attempts[0].status is Status.failed
    assert "SIGKILL" in record.attempts[0].error
    assert (actors.killed, actors.closed) == (1, 1)
    _, _, error = carry_out(starts(), leave())
    assert "the workers ended without a result" in str(error)


def test_the_first_failure_of_this_attempt_is_the_cause(carry_out: Run) -> None:
    carry_out(fails(0, 1.0, "of the first attempt"), leave("exit code 1"))
    _, _, error = carry_out(
        starts(),
        fails(1, 20.0, "connection reset by peer"),
        fails(0, 10.0, "token 17 is not in the vocabulary"),
        fails(2, 5.0, "of an attempt 11", attempt=11),
        leave("exit code 1"),
    )
    assert isinstance(error, RunFailedError)
    assert error.message == "ValueError: token 17 is not in the vocabulary (worker 0, task.py:3)"
    assert "rank-0.log" in error.hint


def test_the_attempts_of_a_run_are_numbered(carry_out: Run, record: RunRecord) -> None:
    carry_out(starts(), saves(4), leave("lost"))
    actors, shown, error = carry_out(starts(4), finishes(), leave())
    assert error is None
    assert actors.launch.attempt == 2
    assert shown.kinds() == [events.STARTED, events.FINISHED], "events of the first attempt are not shown again"
    assert [attempt.status for attempt in record.attempts] == [Status.failed, Status.finished]
    assert record.last_checkpoint == "step-00000004"


def test_a_stale_attempt_is_not_listened_to(carry_out: Run, record: RunRecord) -> None:
    carry_out(starts(), leave("lost"))

    def stale(actors: Actors) -> None:
        EventWriter(record.store, "rank-0", attempt=1).emit(
            events.FINISHED, 99, reason="done", metrics={"val/loss": 0.0}
        )

    _, shown, error = carry_out(starts(), stale, leave("lost again"))
    assert isinstance(error, RunFailedError)
    assert shown.kinds() == [events.STARTED]
    assert record.step == 0


def test_one_ctrl_c_asks_to_save_and_stop(carry_out: Run, record: RunRecord) -> None:
    _, shown, error = carry_out(starts(), interrupt, leaves_when_asked_to_stop)
    assert isinstance(error, RunStoppedError)
    assert error.message == "Saved at step 6 and stopped."
    assert "orchestrator resume demo-1" in error.hint
    assert "saving a checkpoint and stopping; press Ctrl-C again to stop at once" in shown.said
    assert (record.status, record.last_checkpoint) == (Status.stopped, "step-00000006")


def test_sigterm_does_the_same(carry_out: Run, record: RunRecord) -> None:
    _, _, error = carry_out(starts(), terminate, leaves_when_asked_to_stop)
    assert isinstance(error, RunStoppedError)
    assert record.status is Status.stopped


def test_a_stop_request_is_for_one_attempt(carry_out: Run, record: RunRecord) -> None:
    carry_out(starts(), interrupt, leaves_when_asked_to_stop)
    assert record.store.exists(paths.STOP)
    _, _, error = carry_out(
        lambda actors: None if not record.store.exists(paths.STOP) else Ended(error="the old request is still there"),
        starts(6),
        finishes(),
        leave(),
    )
    assert error is None


def test_a_second_ctrl_c_stops_at_once(carry_out: Run, record: RunRecord) -> None:
    actors, _, error = carry_out(starts(), saves(4), interrupt, interrupt)
    assert isinstance(error, RunStoppedError)
    assert error.message == "Stopped at once, without saving."
    assert actors.killed == actors.closed == 1
    assert (record.status, record.last_checkpoint) == (Status.stopped, "step-00000004")
    assert record.attempts[0].ended


def test_ctrl_c_before_the_workers_are_there_stops_at_once(carry_out: Run, record: RunRecord) -> None:
    actors, _, error = carry_out(lambda actors: None, interrupt)
    assert isinstance(error, RunStoppedError)
    assert error.message == "Stopped at once, without saving."
    assert actors.killed == 1
    assert record.status is Status.stopped


def test_an_impatient_person_cannot_keep_the_end_from_being_written_down(
    carry_out: Run, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(actors: Actors) -> None:
        interrupt(actors)
        interrupt(actors)
        time.sleep(0.01)

    monkeypatch.setattr(Actors, "kill", kill)
    _, _, error = carry_out(starts(), interrupt, interrupt)
    assert isinstance(error, RunStoppedError)
    assert record.status is Status.stopped


def test_workers_that_do_not_start_in_time_are_a_machine_error(
    carry_out: Run, record: RunRecord, wanted: JobSpec
) -> None:
    wanted.cluster = Cluster(start_timeout_s=0.05)
    actors, _, error = carry_out(spec=wanted)
    assert isinstance(error, MachineError)
    assert error.message == "The workers did not start within cluster.start_timeout_s=0.05."
    assert actors.killed == 1
    assert record.status is Status.failed
    _, _, error = carry_out(starts(), lambda actors: time.sleep(0.1), finishes(), leave(), spec=wanted)
    assert error is None, "the limit is for the start alone"


def test_workers_that_can_never_start_are_a_machine_error(carry_out: Run, record: RunRecord) -> None:
    def refuse(actors: Actors) -> None:
        raise MachineError("2 workers with 3 CPU each need 6, but the cluster has 4.", "Lower it.")

    actors, _, error = carry_out(refuse)
    assert isinstance(error, MachineError)
    assert record.status is Status.failed
    assert record.attempts[0].error.startswith("2 workers with 3 CPU each need 6")
    assert actors.closed == 1


def test_what_ends_before_an_attempt_begins_changes_no_older_one(
    carry_out: Run, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(starts(), finishes(), leave())
    before = json.loads(record.store.read(paths.RECORD))

    def full(_: object) -> None:
        raise StorageError("Cannot write: No space left on device.")

    monkeypatch.setattr("orchestrator.foundation.storage.LocalStore.check_writable", full)
    actors, _, error = carry_out(starts())
    assert isinstance(error, StorageError)
    assert json.loads(record.store.read(paths.RECORD)) == before
    assert actors.launch is None
    assert actors.closed == 1


def test_a_second_driver_is_refused(carry_out: Run, record: RunRecord) -> None:
    other = subprocess.Popen(["sleep", "30"])
    try:
        attempt = Attempt(number=1, started=1.0, world_size=1, host=socket.gethostname(), pid=other.pid)
        record.attempts = [attempt]
        actors, _, error = carry_out(starts())
        assert isinstance(error, PlanError)
        assert f"Run demo-1 is being trained by process {other.pid} on this machine." in error.message
        assert actors.launch is None
    finally:
        other.kill()
        other.wait()
    actors, _, error = carry_out(starts(), finishes(), leave())
    assert error is None, "one that is gone is no hindrance"
    assert actors.launch.attempt == 2


def test_a_bug_in_the_driver_leaves_no_workers(carry_out: Run, record: RunRecord) -> None:
    def bug(actors: Actors) -> None:
        raise ZeroDivisionError

    actors, _, error = carry_out(starts(), bug)
    assert isinstance(error, ZeroDivisionError)
    assert (actors.killed, actors.closed) == (1, 1)
    assert (record.status, record.attempts[0].error) == (Status.failed, "ZeroDivisionError")


class TestInAnObjectStore:
    @pytest.fixture
    def wanted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobSpec:
        monkeypatch.setattr(driver, "REMOTE_LOOK_S", 0.01)
        storage = Storage(path=f"memory://{tmp_path.name}/runs")
        return spec(storage=storage, tracking=Tracking(enabled=False), resilience=Resilience(max_failures=0))

    def test_a_run_is_carried_out_as_in_a_folder(self, carry_out: Run, record: RunRecord) -> None:
        _, shown, error = carry_out(starts(), saves(10), finishes(), leave())
        assert error is None
        assert shown.kinds() == [events.STARTED, events.CHECKPOINT, events.FINISHED]
        assert runs.load(record.root.rsplit("/", 1)[0], "demo-1").status is Status.finished

    def test_a_store_that_does_not_answer_for_a_while_ends_nothing(
        self, carry_out: Run, record: RunRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tail = events.EventReader.poll
        broken = [0]

        def poll(reader: events.EventReader) -> list[Event]:
            broken[0] += 1
            if 2 <= broken[0] <= 4:
                raise StorageError("Cannot read memory://x: no route.")
            return tail(reader)

        monkeypatch.setattr(events.EventReader, "poll", poll)
        wait: Act = lambda actors: time.sleep(0.02)  # noqa: E731
        _, shown, error = carry_out(starts(), *[wait] * 8, finishes(), leave())
        assert error is None
        assert shown.kinds() == [events.STARTED, events.FINISHED]
        trouble = [text for text in shown.said if "does not answer" in text]
        assert trouble == ["note: run storage does not answer, training goes on: Cannot read memory://x: no route."]

    def test_a_store_is_not_asked_all_the_time(self, carry_out: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(driver, "REMOTE_LOOK_S", 1000.0)
        looks: list[int] = []
        poll = events.EventReader.poll
        monkeypatch.setattr(events.EventReader, "poll", lambda reader: looks.append(1) or poll(reader))
        _, shown, error = carry_out(*[lambda actors: None] * 50, starts(), finishes(), leave())
        assert error is None
        assert shown.kinds() == [events.STARTED, events.FINISHED], "what comes at the very end is not missed"
        assert len(looks) == 4


# --- further attempts ------------------------------------------------------------------------------------------------


def sees(**outlook: Any) -> Act:
    def act(actors: Actors) -> None:
        actors.seen = Outlook(**outlook)

    return act


def wait(actors: Actors) -> None:
    time.sleep(0.01)


def restarts(record: RunRecord) -> list[Event]:
    return [event for event in events.EventReader(record.store).poll() if event.kind == events.RESTART]


class TestFurtherAttempts:
    """What the driver does by itself when workers are lost, and when there is room for more."""

    @pytest.fixture
    def wanted(self, tmp_path: Path) -> JobSpec:
        return spec(
            storage=Storage(path=str(tmp_path / "runs")),
            tracking=Tracking(enabled=False),
            cluster=Cluster(workers="1..4"),
            resilience=Resilience(max_failures=2, backoff_s=0.01, grow_interval_s=0.02),
        )

    def test_lost_workers_are_answered_with_a_new_attempt(self, carry_out: Run, record: RunRecord) -> None:
        actors, shown, error = carry_out(
            *(starts(), saves(4), leave("worker 1 was ended by SIGKILL")), *(starts(4), finishes(), leave())
        )
        assert error is None
        assert "worker 1 was ended by SIGKILL: going on from the newest checkpoint, attempt 2" in shown.said
        (restart,) = restarts(record)
        assert (restart.attempt, restart.step, restart.data["cause"], restart.data["world_size"]) == (2, 4, "lost", 1)
        assert restart.data["message"] == ("worker 1 was ended by SIGKILL; went on from step 4 with 1 worker after 0 s")
        first, second = record.attempts
        assert (first.status, first.error, first.first_step) == (Status.failed, "worker 1 was ended by SIGKILL", 0)
        assert (second.status, second.reason, second.first_step, second.last_step) == (
            *(Status.finished, "worker 1 was ended by SIGKILL", 4, 10),
        )
        assert (actors.launch.attempt, actors.killed, actors.closed) == (2, 0, 1)
        assert runs.load(str(Path(record.root).parent), "demo-1") == record

    def test_a_run_that_does_not_get_on_is_given_up(self, carry_out: Run, record: RunRecord) -> None:
        _, _, error = carry_out(*[starts(), leave("lost")] * 3)
        assert isinstance(error, RunFailedError)
        assert error.message == (
            "Run demo-1 failed: lost. It failed 3 times without a new checkpoint in between (resilience.max_failures=2)."
        )
        assert [attempt.status for attempt in record.attempts] == [Status.failed] * 3
        assert record.status is Status.failed

    def test_a_run_that_gets_on_is_not(self, carry_out: Run, record: RunRecord) -> None:
        lives = [act for step in range(1, 8) for act in (starts(step - 1), saves(step), leave("lost"))]
        _, _, error = carry_out(*lives, starts(7), finishes(), leave())
        assert error is None
        assert len(record.attempts) == 8

    def test_a_workers_own_exception_ends_the_run(self, carry_out: Run, record: RunRecord) -> None:
        _, _, error = carry_out(starts(), fails(0, 1.0, "a bug"), leave("exit code 1"))
        assert isinstance(error, RunFailedError)
        assert error.message == "ValueError: a bug (worker 0, task.py:3)"
        assert len(record.attempts) == 1

    def test_unless_that_is_wanted(self, carry_out: Run, record: RunRecord, wanted: JobSpec) -> None:
        wanted.resilience.restart_on_exception = True
        _, _, error = carry_out(starts(), fails(0, 1.0, "a bug"), leave("exit code 1"), starts(), finishes(), leave())
        assert error is None
        assert record.attempts[0].error == "ValueError: a bug (worker 0, task.py:3)"

    def test_nobody_seems_to_be_free_to_take_the_run_over_between_attempts(
        self, carry_out: Run, record: RunRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, bool]] = []
        save = RunRecord.save

        def look(saved: RunRecord) -> None:
            save(saved)
            seen.append((len(saved.attempts), runs.is_over(saved)))

        monkeypatch.setattr(RunRecord, "save", look)
        carry_out(starts(), leave("lost"), starts(), finishes(), leave())
        assert [over for _, over in seen] == [False] * (len(seen) - 1) + [True]
        assert {attempts for attempts, _ in seen} == {1, 2}

    def test_room_for_more_workers_is_used(self, carry_out: Run, record: RunRecord) -> None:
        actors, shown, error = carry_out(
            *(sees(workers=2, room=2), emits(events.STARTED, 0, world_size=2, total_steps=10)),
            *(sees(workers=2, room=4), wait, wait, wait, leaves_when_asked_to_stop),
            *(sees(workers=4, room=4), emits(events.STARTED, 6, world_size=4, total_steps=10), finishes(), leave()),
        )
        assert error is None
        assert [attempt.world_size for attempt in record.attempts] == [2, 4]
        assert [attempt.status for attempt in record.attempts] == [Status.stopped, Status.finished]
        (restart,) = restarts(record)
        assert restart.data["message"].startswith("there is room for 4 workers; went on from step 6 with 4 workers")
        assert restart.data["cause"] == "room"
        assert shown.said.count("there is room for 4 workers: saving a checkpoint") == 1
        assert record.attempts[0].error == ""
        assert actors.launch.world_size == 4

    def test_a_run_that_ends_while_it_is_asked_to_grow_has_ended(self, carry_out: Run, record: RunRecord) -> None:
        _, _, error = carry_out(starts(), sees(workers=1, room=4), *[wait] * 4, finishes(), leave())
        assert error is None
        assert (len(record.attempts), record.status) == (1, Status.finished)
        assert record.store.exists(paths.STOP), "it was asked to"

    def test_workers_lost_while_they_are_asked_to_grow_are_lost(self, carry_out: Run, record: RunRecord) -> None:
        _, _, error = carry_out(
            *(starts(), sees(workers=1, room=4), *[wait] * 4, leave("worker 0 was lost")),
            *(starts(), finishes(), leave()),
        )
        assert error is None
        assert record.attempts[1].reason == "worker 0 was lost"

    def test_a_node_that_is_taken_away_is_left_in_time(self, carry_out: Run, record: RunRecord) -> None:
        _, shown, error = carry_out(
            *(starts(), sees(workers=1, room=1, leaving="b"), leaves_when_asked_to_stop),
            *(sees(workers=1, room=1), starts(6), finishes(), leave()),
        )
        assert error is None
        assert record.attempts[1].reason == "b is about to be taken away"
        assert "b is about to be taken away: saving a checkpoint" in shown.said

    def test_ctrl_c_while_it_is_asked_to_grow_stops_the_run(self, carry_out: Run, record: RunRecord) -> None:
        _, _, error = carry_out(
            starts(), sees(workers=1, room=4), *[wait] * 4, interrupt, wait, leaves_when_asked_to_stop
        )
        assert isinstance(error, RunStoppedError)
        assert (len(record.attempts), record.status) == (1, Status.stopped)

    def test_workers_lost_after_ctrl_c_are_not_started_again(self, carry_out: Run, record: RunRecord) -> None:
        _, _, error = carry_out(starts(), interrupt, leave("lost"))
        assert isinstance(error, RunFailedError)
        assert len(record.attempts) == 1

    def test_ctrl_c_in_a_pause_stops_at_once(
        self, carry_out: Run, record: RunRecord, wanted: JobSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted.resilience.backoff_s = 60
        sleep = time.sleep
        monkeypatch.setattr(driver.time, "sleep", lambda seconds: sleep(seconds) or _interrupt_in_pause(record))
        _, _, error = carry_out(starts(), leave("lost"), starts(), leave("lost again"))
        assert isinstance(error, RunStoppedError)
        assert [attempt.status for attempt in record.attempts] == [Status.failed, Status.failed, Status.stopped]

    def test_waiting_for_room_is_told_and_has_an_end(self, carry_out: Run, record: RunRecord, wanted: JobSpec) -> None:
        lacks = MachineError("1 worker with 1 CPU needs 1 CPU, and there are 0.", "Set cluster.workers=0.")
        wanted.cluster.start_timeout_s = 0.1
        _, shown, error = carry_out(starts(), leave("node b went away"), sees(waits_for=lacks))
        assert isinstance(error, MachineError)
        assert error.message == f"The workers did not start within cluster.start_timeout_s=0.1: {lacks.message}"
        assert error.hint == "Go on with: orchestrator resume demo-1" + record.storage_flag
        assert f"waiting, at most 0.1 s: {lacks.message}" in shown.said
        assert record.attempts[1].error.startswith("The workers did not start")
        assert record.status is Status.failed

    def test_fewer_workers_than_hoped_for_are_told(self, carry_out: Run, record: RunRecord) -> None:
        _, shown, _ = carry_out(sees(workers=1, room=1), starts(), finishes(), leave())
        assert shown.said[0] == "starting 4 workers"
        assert "there is room for 1 worker at the moment" in shown.said
        assert record.attempts[0].world_size == 1


def _interrupt_in_pause(record: RunRecord) -> None:
    if len(record.attempts) == 3:
        os.kill(os.getpid(), signal.SIGINT)
