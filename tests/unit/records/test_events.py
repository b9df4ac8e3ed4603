"""Events: what writers write is what readers read, whatever happens in between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import Store, open_store
from orchestrator.records import events
from orchestrator.records.events import Event, EventReader, EventWriter, in_words


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def remote(request: pytest.FixtureRequest) -> Store:
    return open_store(f"memory://{request.node.name.replace('[', '-')}")


def metrics(reader: EventReader) -> list[float]:
    return [event.data["metrics"]["loss"] for event in reader.poll()]


def test_an_event_comes_back_as_it_was() -> None:
    event = Event(kind=events.NOTE, time=12.5, attempt=2, step=7, data={"message": 'a "quoted"\nline\u2028', "n": [1]})
    assert event.to_line().count("\n") == 1
    assert Event.from_line(event.to_line()) == event


def test_numbers_that_json_lacks_are_written_as_words_and_read_as_numbers() -> None:
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5, "e": 3}
    line = Event(kind=events.METRICS, time=1.0, attempt=1, step=1, data={"metrics": values}).to_line()

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(line, parse_constant=refuse)["metrics"] == {
        "a": "NaN",
        "b": "Infinity",
        "c": "-Infinity",
        "d": 1.5,
        "e": 3,
    }
    read = Event.from_line(line).data["metrics"]
    assert math.isnan(read.pop("a"))
    assert read == {"b": math.inf, "c": -math.inf, "d": 1.5, "e": 3.0}


def test_words_are_only_for_numbers() -> None:
    data: dict[str, Any] = {"text": "NaN", "deep": [{"x": math.inf}, (1, math.nan)], "flag": True, "none": None}
    assert in_words(data) == {"text": "NaN", "deep": [{"x": "Infinity"}, [1, "NaN"]], "flag": True, "none": None}


def test_all_writers_are_read_together_in_order_of_time(store: Store) -> None:
    clock = Clock()
    writers = [EventWriter(store, name, attempt=1, clock=clock) for name in ("rank-0", "node-0", "node-1")]
    reader = EventReader(store)
    assert reader.poll() == []
    for number in range(6):
        clock.now += 1
        writers[-number % 3].emit(events.METRICS, number, metrics={"loss": number})
    assert metrics(reader) == [0, 1, 2, 3, 4, 5]
    assert reader.poll() == []
    writers[0].emit(events.METRICS, 6, metrics={"loss": 6})
    assert metrics(reader) == [6]


def test_a_line_being_written_is_read_when_it_is_whole(store: Store, tmp_path: Path) -> None:
    line = Event(kind=events.NOTE, time=1.0, attempt=1, data={"message": "grüße"}).to_line().encode()
    file = tmp_path / paths.EVENTS / "rank-0.jsonl"
    file.parent.mkdir()
    file.write_bytes(line[:20])
    reader = EventReader(store)
    assert reader.poll() == []
    file.write_bytes(line)
    assert [event.data["message"] for event in reader.poll()] == ["grüße"]


def test_what_a_dying_worker_left_half_written_hides_nothing_else(store: Store, tmp_path: Path) -> None:
    EventWriter(store, "rank-0", attempt=1).emit(events.NOTE, message="before")
    file = tmp_path / paths.EVENTS / "rank-0.jsonl"
    with file.open("a") as torn:
        torn.write('{"kind":"metrics","ti')
    EventWriter(store, "rank-0", attempt=2).emit(events.NOTE, message="after")
    assert [(event.attempt, event.data["message"]) for event in EventReader(store).poll()] == [
        (1, "before"),
        (2, "after"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        "null",
        '"text"',
        '{"kind": "note"}',
        '{"kind":"metrics","time":1,"attempt":1,"step":1,"metrics":{"loss":"high"}}',
    ],
)
def test_a_line_that_is_no_event_is_passed_over(store: Store, line: str) -> None:
    store.append(f"{paths.EVENTS}/rank-0.jsonl", f"{line}\n")
    EventWriter(store, "rank-0", attempt=1).emit(events.NOTE, message="fine")
    assert [event.kind for event in EventReader(store).poll()] == [events.NOTE]


def test_on_a_file_system_every_event_is_there_at_once(store: Store) -> None:
    clock = Clock()
    writer, reader = EventWriter(store, "rank-0", attempt=1, clock=clock), EventReader(store)
    writer.emit(events.METRICS, 1, metrics={"loss": 1.0})
    assert metrics(reader) == [1.0]


def test_metrics_for_an_object_store_are_gathered(remote: Store) -> None:
    clock = Clock()
    writer, reader = EventWriter(remote, "rank-0", attempt=1, clock=clock, interval_s=5), EventReader(remote)
    for step in range(1, 6):
        clock.now += 1
        writer.emit(events.METRICS, step, metrics={"loss": step})
        assert metrics(reader) == ([] if step < 5 else [1, 2, 3, 4, 5])
    assert len(remote.list(f"{paths.EVENTS}/rank-0.jsonl")) == 1
    clock.now += 1
    writer.emit(events.METRICS, 6, metrics={"loss": 6})
    writer.flush()
    writer.flush()
    assert metrics(reader) == [6]


@pytest.mark.parametrize("kind", [events.STARTED, events.CHECKPOINT, events.EVALUATED, events.NOTE, events.FINISHED])
def test_news_does_not_wait_and_takes_the_metrics_before_it_along(remote: Store, kind: str) -> None:
    writer, reader = EventWriter(remote, "rank-0", attempt=1, clock=Clock()), EventReader(remote)
    writer.emit(events.METRICS, 1, metrics={"loss": 1.0})
    writer.emit(kind, 1)
    assert [event.kind for event in reader.poll()] == [events.METRICS, kind]


def test_events_wait_while_an_object_store_does_not_answer(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    writer, reader = EventWriter(remote, "rank-0", attempt=1, clock=clock), EventReader(remote)

    def unreachable(*_: object) -> None:
        raise StorageError("Cannot write: no route.")

    with monkeypatch.context() as patched:
        patched.setattr(remote, "append", unreachable)
        writer.emit(events.STARTED, 0)
        with pytest.raises(StorageError):
            writer.flush()
    clock.now += 5
    writer.emit(events.METRICS, 1, metrics={"loss": 1.0})
    assert [event.kind for event in reader.poll()] == [events.STARTED, events.METRICS]


def test_a_full_disk_is_not_kept_secret(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("Cannot write: No space left on device.")

    monkeypatch.setattr(store, "append", full)
    with pytest.raises(StorageError):
        EventWriter(store, "rank-0", attempt=1).emit(events.STARTED, 0)


def test_a_round_that_failed_loses_no_event(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("node-0", "rank-0"):
        EventWriter(remote, name, attempt=1).emit(events.NOTE, message=name)
    reader, tail = EventReader(remote), remote.tail

    def broken_for_rank_0(name: str, cursor: int = 0) -> tuple[str, int]:
        if "rank-0" in name:
            raise StorageError("Cannot read: no route.")
        return tail(name, cursor)

    with monkeypatch.context() as patched:
        patched.setattr(remote, "tail", broken_for_rank_0)
        with pytest.raises(StorageError):
            reader.poll()
    assert [event.data["message"] for event in reader.poll()] == ["node-0", "rank-0"]
