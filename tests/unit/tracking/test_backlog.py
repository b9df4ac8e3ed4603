"""What is still to be sent, as the event files and the ledger say it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import Store, open_store
from orchestrator.records.events import FINISHED, METRICS, NOTE, EventWriter
from orchestrator.tracking.backlog import Backlog, Point
from orchestrator.tracking.ledger import Ledger


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = (
        str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-{request.node.name}".replace("[", "")
    )
    return open_store(root.replace("]", ""))


def attempts(store: Store, *starts: float) -> None:
    known = [{"number": number, "started": start} for number, start in enumerate(starts, 1)]
    store.write(paths.RECORD, json.dumps({"attempts": known}))


def write(store: Store, step: int | None, moment: float, attempt: int = 1, kind: str = METRICS, **metrics: Any) -> None:
    writer = EventWriter(store, "node-0" if step is None else "rank-0", attempt)
    writer.add(kind, step, moment, {"metrics": {name.replace("__", "/"): value for name, value in metrics.items()}})
    writer.flush()


def make(store: Store, ledger: Ledger | None = None, **options: Any) -> Backlog:
    return Backlog(store, Ledger.load(store) if ledger is None else ledger, **{"created": 0.0, "attempt": 1, **options})


def drain(backlog: Backlog) -> list[Point]:
    """All points, each chunk committed."""
    found: list[Point] = []
    while backlog.has_more():
        found += backlog.next()
        backlog.commit()
    return found


def steps(points: list[Point], key: str = "loss") -> list[int]:
    return [point.step for point in points if point.key == key]


def test_points_are_those_of_the_metrics(store: Store) -> None:
    write(store, 1, 10.5, train__loss=2.0, odd__name=math.nan)
    write(store, None, 12.7, system__cpu=3)
    write(store, 2, 13.0, kind=NOTE)
    points = drain(make(store, created=10.0))
    assert sorted((point.key, point.timestamp, point.step) for point in points) == [
        ("odd/name", 10500, 1),
        ("system/cpu", 12700, 2),
        ("train/loss", 10500, 1),
    ]
    assert {point.key: point.value for point in points if point.key != "odd/name"} == {
        "system/cpu": 3.0,
        "train/loss": 2.0,
    }


def test_names_are_those_that_mlflow_takes(store: Store) -> None:
    write(store, 1, 1.0, **{"a#b": 1.0})
    assert [point.key for point in drain(make(store))] == ["a_b"]


def test_the_same_points_come_until_they_are_committed(store: Store) -> None:
    write(store, 1, 1.0, loss=1.0)
    backlog = make(store)
    first = backlog.next()
    write(store, 2, 2.0, loss=0.5)
    assert backlog.next() == first
    backlog.commit()
    assert steps(backlog.next()) == [2]


def test_steps_that_were_computed_again_are_sent_once(store: Store) -> None:
    for step in range(1, 6):
        write(store, step, float(step), loss=1.0)
    attempts(store, 0.0, 100.0)
    for step in range(3, 8):
        write(store, step, 100.0 + step, attempt=2, loss=2.0)
    points = drain(make(store, attempt=2))
    assert steps(points) == [1, 2, 3, 4, 5, 6, 7]
    assert [point.value for point in points] == [1.0] * 5 + [2.0] * 2


def test_each_metric_has_its_own_mark(store: Store) -> None:
    write(store, 10, 1.0, loss=1.0)
    write(store, 5, 2.0, accuracy=0.5)
    write(store, 5, 3.0, loss=9.0)
    assert {(point.key, point.step) for point in drain(make(store))} == {("loss", 10), ("accuracy", 5)}


def test_a_stale_attempt_is_fenced_off(store: Store) -> None:
    attempts(store, 0.0, 100.0)
    write(store, 1, 50.0, attempt=1, loss=1.0)
    write(store, 2, 100.0, attempt=1, loss=666.0)
    write(store, 2, 101.0, attempt=2, loss=0.5)
    assert [(point.step, point.value) for point in drain(make(store, attempt=2))] == [(1, 1.0), (2, 0.5)]


def test_an_attempt_that_begins_meanwhile_fences_at_once(store: Store) -> None:
    attempts(store, 0.0)
    backlog = make(store, attempt=1)
    write(store, 1, 1.0, loss=1.0)
    assert steps(drain(backlog)) == [1]
    attempts(store, 0.0, 100.0)
    write(store, 2, 101.0, attempt=1, loss=2.0)
    assert backlog.next() == []
    assert backlog.superseded
    assert not backlog.has_more()
    assert steps(drain(make(store, Ledger(), attempt=2))) == [1]


def test_a_driver_that_begins_an_attempt_itself_goes_on(store: Store) -> None:
    attempts(store, 0.0)
    backlog = make(store, attempt=1)
    write(store, 1, 1.0, loss=1.0)
    assert steps(drain(backlog)) == [1]
    backlog.attempt = 2
    attempts(store, 0.0, 100.0)
    write(store, 2, 101.0, attempt=1, loss=666.0)
    write(store, 2, 102.0, attempt=2, loss=2.0)
    assert [point.value for point in drain(backlog)] == [2.0]
    assert not backlog.superseded


def test_the_end_adds_only_what_was_never_told(store: Store) -> None:
    write(store, 3, 3.0, loss=1.0)
    write(store, 9, 9.0, kind=FINISHED, loss=0.1, f1=0.9)
    assert [(point.key, point.step, point.timestamp) for point in drain(make(store))] == [
        ("loss", 3, 3000),
        ("f1", 9, 9000),
    ]


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1000, 10_000])
def test_a_crash_anywhere_repeats_points_and_loses_none(store: Store, chunk_bytes: int) -> None:
    for step in range(40):
        write(store, step, step + 0.25, loss=float(step), lr=0.1)
    whole = drain(make(store))
    store.remove(paths.LEDGER)
    received: list[Point] = []
    for crash in range(200):
        backlog = make(store, chunk_bytes=chunk_bytes, clock=lambda: 1e9)  # every commit is written down
        received += backlog.next()
        if crash % 3:
            backlog.commit()
    assert dict.fromkeys(received) == dict.fromkeys(whole)
    assert steps(list(dict.fromkeys(received))) == list(range(40))


def test_chunks_are_bounded(store: Store) -> None:
    for step in range(1000):
        write(store, step, 1.0, loss=1.0)
    backlog = make(store, chunk_bytes=2000)
    sizes = []
    while backlog.has_more():
        sizes.append(len(backlog.next()))
        backlog.commit()
    assert sum(sizes) == 1000
    assert max(sizes) < 40


def test_a_torn_line_is_left_until_it_is_whole_or_given_up(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write(store, 1, 1.0, loss=1.0)
    with (tmp_path / paths.EVENTS / "rank-0.jsonl").open("a") as torn:
        torn.write('{"kind":"metrics","time":2.0,"att')
    backlog = make(store)
    assert steps(drain(backlog)) == [1]
    write(store, 2, 3.0, attempt=2, loss=0.5)
    assert steps(drain(backlog)) == [2]


def test_the_ledger_is_written_once_a_second_at_most(store: Store) -> None:
    clock = Clock()
    backlog = make(store, Ledger(mlflow_run_id="run"), clock=clock)
    for step in range(1, 4):
        write(store, step, 1.0, loss=1.0)
        backlog.next()
        backlog.commit()
    assert Ledger.load(store).marks == {"loss": 1}
    clock.now += 1
    write(store, 4, 1.0, loss=1.0)
    backlog.next()
    backlog.commit(rejected=1)
    kept = Ledger.load(store)
    assert (kept.mlflow_run_id, kept.marks, kept.sent, kept.rejected) == ("run", {"loss": 4}, 3, 1)


def test_nothing_is_written_when_nothing_is_new(store: Store) -> None:
    backlog = make(store)
    assert backlog.next() == []
    backlog.commit()
    assert backlog.at_end
    assert not store.exists(paths.LEDGER)


def test_storage_that_fails_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, 1, 1.0, loss=1.0)
    backlog = make(store)

    def unreachable(*_: object) -> None:
        raise StorageError("Cannot read: no route.")

    with monkeypatch.context() as patched:
        patched.setattr(store, "tail", unreachable)
        with pytest.raises(StorageError):
            backlog.next()
    points = backlog.next()
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", unreachable)
        with pytest.raises(StorageError):
            backlog.commit()
    assert steps(points) == [1]
    assert backlog.next() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"cursors": 1, "newer": true}'])
def test_a_damaged_ledger_is_an_empty_one(store: Store, text: str) -> None:
    store.write(paths.LEDGER, text)
    assert Ledger.load(store).marks == {}
