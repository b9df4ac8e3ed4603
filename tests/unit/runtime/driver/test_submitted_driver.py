"""What is different about the driver of a submitted run: it waits for room, and is stopped through the run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.schema import Cluster, JobSpec, Resilience, Storage, Tracking
from orchestrator.errors import MachineError, RunStoppedError
from orchestrator.records import runs
from orchestrator.records.runs import RunRecord, Status
from orchestrator.records.stop_request import StopRequest
from orchestrator.runtime.driver import driver, preparing
from orchestrator.runtime.launchers.base import Outlook
from tests.unit.plans.plan_specs import plan, spec
from tests.unit.runtime.driver.test_driver import (
    Act,
    Actors,
    Shown,
    finishes,
    leave,
    leaves_when_asked_to_stop,
    saves,
    starts,
)

PACKAGE = "/shared/runs/packages/abc.zip"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "POLL_S", 0.001)
    monkeypatch.setattr(preparing, "request_for", lambda *_: None)


@pytest.fixture
def wanted(tmp_path: Path) -> JobSpec:
    return spec(
        storage=Storage(path=str(tmp_path / "runs")),
        tracking=Tracking(enabled=False),
        resilience=Resilience(max_failures=0),
        cluster=Cluster(start_timeout_s=0.05),
    )


@pytest.fixture
def record(wanted: JobSpec) -> RunRecord:
    return runs.create(plan(wanted), "demo-1")


def carry_out(record: RunRecord, wanted: JobSpec, *acts: Act, package: str = PACKAGE) -> tuple[Actors, Shown]:
    actors, shown = Actors(list(acts)), Shown()
    try:
        driver.carry_out(record, record.plan, wanted, shown, actors, package=package)
    finally:
        record.final_metrics.clear()
    return actors, shown


def lacks_room(actors: Actors) -> None:
    actors.seen = Outlook(waits_for=MachineError("No node has 2 CPUs free."))


def has_room(actors: Actors) -> None:
    actors.seen = Outlook(workers=1)


def asks(now: bool = False, grace_s: float = 60.0) -> Act:
    return lambda actors: StopRequest(now=now, grace_s=grace_s).write(runs.open_store(actors.launch.root))  # type: ignore[union-attr]


def nothing(actors: Actors) -> None:
    """A moment passes."""


def test_workers_are_told_where_the_project_lies(record: RunRecord, wanted: JobSpec) -> None:
    actors, _ = carry_out(record, wanted, starts(), finishes(), leave())
    assert actors.launch
    assert actors.launch.package == PACKAGE


def test_it_waits_for_room_as_long_as_it_takes(record: RunRecord, wanted: JobSpec) -> None:
    long = [nothing] * 100  # some 0.1 s, twice the time that a terminal would wait
    actors, shown = carry_out(record, wanted, lacks_room, *long, has_room, starts(), finishes(), leave())
    assert record.status is Status.finished
    assert "waiting: No node has 2 CPUs free." in shown.said
    assert not actors.acts


def test_a_terminal_waits_for_so_long(record: RunRecord, wanted: JobSpec) -> None:
    with pytest.raises(MachineError, match=r"cluster.start_timeout_s=0.05: No node has 2 CPUs free"):
        carry_out(record, wanted, lacks_room, *[nothing] * 1000, package="")


def test_once_there_is_room_the_workers_must_start_in_time(record: RunRecord, wanted: JobSpec) -> None:
    with pytest.raises(MachineError, match="The workers did not start within"):
        carry_out(record, wanted, lacks_room, *[nothing] * 100, has_room, *[nothing] * 1000)


def test_a_request_saves_and_stops(record: RunRecord, wanted: JobSpec) -> None:
    with pytest.raises(RunStoppedError, match="Saved at step 6 and stopped"):
        carry_out(record, wanted, starts(), saves(4), asks(), leaves_when_asked_to_stop)
    assert (record.status, record.last_checkpoint) == (Status.stopped, "step-00000006")


def test_a_request_for_now_stops_without_saving(record: RunRecord, wanted: JobSpec) -> None:
    with pytest.raises(RunStoppedError, match="Stopped at once, without saving"):
        carry_out(record, wanted, starts(), asks(now=True), *[nothing] * 100)
    assert record.attempts[-1].error == "stopped at once, without saving"


def test_workers_that_do_not_save_in_time_are_ended(record: RunRecord, wanted: JobSpec) -> None:
    with pytest.raises(RunStoppedError, match="Stopped at once, without saving"):
        carry_out(record, wanted, starts(), asks(grace_s=0.02), *[nothing] * 1000)


def test_a_request_ends_the_waiting_for_room(record: RunRecord, wanted: JobSpec) -> None:
    with pytest.raises(RunStoppedError):
        carry_out(record, wanted, lacks_room, asks(), *[nothing] * 100)
    assert record.status is Status.stopped


def test_a_request_from_before_counts(record: RunRecord, wanted: JobSpec) -> None:
    StopRequest().write(record.store)
    with pytest.raises(RunStoppedError):
        carry_out(record, wanted, *[nothing] * 100)
