"""The queue between a training step and the event file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StorageError
from orchestrator.foundation.storage import LocalStore, Store, open_store
from orchestrator.records import events
from orchestrator.records.events import Event, EventReader, EventWriter
from orchestrator.records.spool import Spool


class Disk(LocalStore):
    """A store that waits while `open` is not set, and fails while `full` is."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.open = threading.Event()
        self.open.set()
        self.full = False
        self.tries = 0

    def append(self, name: str, text: str) -> None:
        self.tries += 1
        self.open.wait(10)
        if self.full:
            raise StorageError("Cannot write: No space left on device.")
        super().append(name, text)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(str(tmp_path))


@pytest.fixture
def spool(disk: Disk) -> Iterator[Any]:
    made = []

    def make(store: Store = disk, **options: Any) -> Spool:
        made.append(Spool(EventWriter(store, "rank-0", 1), **{"retry_s": 0.01, "patience_s": 5.0, **options}))
        return made[-1]

    yield make
    disk.open.set()
    disk.full = False
    for spool in made:
        spool.close()
        assert not spool._thread.is_alive()


def read(store: Store) -> list[Event]:
    return EventReader(store).poll()


def losses(store: Store) -> list[float]:
    return [event.data["metrics"]["loss"] for event in read(store) if event.kind == events.METRICS]


def emit(spool: Spool, *steps: int) -> None:
    for step in steps:
        spool.emit(events.METRICS, step, metrics={"loss": step})


def until(what: Any) -> None:
    deadline = time.monotonic() + 5
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_everything_is_written_once_and_in_order(spool: Any, disk: Disk) -> None:
    taking = spool()
    emit(taking, *range(3000))
    taking.emit(events.FINISHED, 3000, reason="done", metrics={})
    assert losses(disk) == list(range(3000))
    assert read(disk)[-1].kind == events.FINISHED


def test_metrics_are_written_without_being_asked_for(spool: Any, disk: Disk) -> None:
    emit(spool(), 1)
    until(lambda: losses(disk) == [1])


def test_an_event_has_the_time_at_which_it_happened(spool: Any, disk: Disk) -> None:
    moments = iter([10.0, 20.0])
    taking = spool(clock=lambda: next(moments))
    disk.open.clear()
    emit(taking, 1, 2)
    disk.open.set()
    taking.flush()
    assert [event.time for event in read(disk)] == [10.0, 20.0]


def test_metrics_never_wait_for_storage_and_what_is_too_much_is_told(spool: Any, disk: Disk) -> None:
    disk.open.clear()
    taking = spool(limit=100)
    emit(taking, 0)
    until(lambda: disk.tries)
    begun = time.monotonic()
    emit(taking, *range(1, 151))
    assert time.monotonic() - begun < 0.5
    assert taking.dropped == 50
    disk.open.set()
    taking.close()
    assert losses(disk) == list(range(101))
    note = read(disk)[-1]
    assert note.kind == events.NOTE
    assert note.data["message"].startswith("50 times")


def test_news_waits_until_it_is_written(spool: Any, disk: Disk) -> None:
    disk.open.clear()
    taking = spool()
    threading.Timer(0.1, disk.open.set).start()
    begun = time.monotonic()
    taking.emit(events.STARTED, 0)
    assert time.monotonic() - begun >= 0.09
    assert [event.kind for event in read(disk)] == [events.STARTED]


def test_what_could_not_be_written_is_written_later_and_in_order(spool: Any, disk: Disk) -> None:
    disk.full = True
    taking = spool()
    emit(taking, 1, 2, 3)
    until(lambda: disk.tries > 2)
    emit(taking, 4)
    assert losses(disk) == []
    disk.full = False
    taking.flush()
    assert losses(disk) == [1, 2, 3, 4]


def test_while_storage_fails_nothing_more_is_taken_from_the_queue(spool: Any, disk: Disk) -> None:
    disk.full = True
    taking = spool(limit=10)
    emit(taking, 0)
    until(lambda: disk.tries > 1)
    emit(taking, *range(1, 100))
    until(lambda: disk.tries > 5)
    assert taking.dropped == 89
    assert len(taking._queue) == 10


def test_a_full_disk_is_not_kept_secret(spool: Any, disk: Disk) -> None:
    disk.full = True
    taking = spool(patience_s=0.05)
    emit(taking, 1)
    with pytest.raises(StorageError, match="No space left"):
        taking.flush(0.05)
    with pytest.raises(StorageError, match="No space left"):
        taking.emit(events.CHECKPOINT, 1, name="step-00000001", best=False)
    with pytest.raises(StorageError, match="No space left"):
        taking.close(0.05)


def test_a_store_far_away_that_does_not_answer_holds_nothing_up(
    spool: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"memory://{request.node.name}")
    append = store.append

    def unreachable(*_: object) -> None:
        raise StorageError("Cannot write: no route.")

    monkeypatch.setattr(store, "append", unreachable)
    taking = spool(store, patience_s=30.0)
    begun = time.monotonic()
    taking.emit(events.STARTED, 0)
    emit(taking, 1)
    taking.emit(events.CHECKPOINT, 1, name="step-00000001", best=False)
    assert time.monotonic() - begun < 2
    monkeypatch.setattr(store, "append", append)
    taking.flush()
    assert [event.kind for event in read(store)] == [events.STARTED, events.METRICS, events.CHECKPOINT]


def test_metrics_for_an_object_store_are_gathered_and_come_by_themselves(
    spool: Any, request: pytest.FixtureRequest
) -> None:
    store = open_store(f"memory://{request.node.name}")
    taking = Spool(EventWriter(store, "rank-0", 1, interval_s=0.3))
    emit(taking, *range(20))
    until(lambda: losses(store) == list(range(20)))
    assert len(store.list("events/rank-0.jsonl")) == 1
    taking.close()


def test_what_is_no_plain_data_does_not_lose_what_follows(spool: Any, disk: Disk) -> None:
    taking = spool()
    taking.emit(events.METRICS, 1, metrics={"loss": object()})
    emit(taking, 2)
    taking.flush()
    assert losses(disk) == [2]
    assert taking.dropped == 1


def test_what_the_caller_changes_afterwards_does_not_change_the_event(spool: Any, disk: Disk) -> None:
    disk.open.clear()
    taking = spool()
    metrics = {"loss": 0}
    emit(taking, 9)
    until(lambda: disk.tries)
    taking.emit(events.METRICS, 1, metrics=metrics)
    metrics["loss"] = 5
    disk.open.set()
    taking.flush()
    assert losses(disk) == [9, 0]


def test_a_bug_in_the_thread_is_told_to_whoever_waits(spool: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    taking = Spool(EventWriter(disk, "rank-0", 1))
    monkeypatch.setattr(disk, "append", lambda *_: 1 / 0)
    with pytest.raises(StorageError, match="ZeroDivisionError"):
        taking.emit(events.STARTED, 0)
