"""What a driver writes down for others: once each time it changes, and never at the cost of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import MachineError, StorageError
from orchestrator.foundation.storage import LocalStore, open_store
from orchestrator.records import events
from orchestrator.records.events import Event, EventReader
from orchestrator.records.failures import Cause, Failure
from orchestrator.runtime.driver.status_events import Bulletin
from orchestrator.runtime.launchers.base import Ended, Outlook


def told(root: Path) -> list[Event]:
    return EventReader(open_store(str(root))).poll()


def waits(message: str) -> Outlook:
    return Outlook(waits_for=MachineError(message, "do this"), waiting={"binding": "CPU"})


def test_waiting_and_places_are_told_when_they_change(tmp_path: Path) -> None:
    bulletin = Bulletin(open_store(str(tmp_path)))
    for outlook in (Outlook(), waits("no room"), waits("no room"), waits("less room"), waits("no room")):
        bulletin.look(1, outlook)
    for _ in range(2):
        bulletin.look(1, Outlook(workers=2, placed={1: "node-b", 0: "node-a"}))
    bulletin.look(2, Outlook(workers=2, placed={1: "node-b", 0: "node-a"}))
    found = told(tmp_path)
    assert [(event.kind, event.attempt, event.data.get("message")) for event in found] == [
        (events.WAITING, 1, "no room"),
        (events.WAITING, 1, "less room"),
        (events.WAITING, 1, "no room"),
        (events.PLACED, 1, None),
        (events.PLACED, 2, None),
    ]
    assert found[0].data == {"message": "no room", "hint": "do this", "binding": "CPU"}
    assert found[3].data == {"nodes": {"0": "node-a", "1": "node-b"}}


def test_waiting_again_after_workers_were_placed_is_told_again(tmp_path: Path) -> None:
    bulletin = Bulletin(open_store(str(tmp_path)))
    for outlook in (waits("no room"), Outlook(placed={0: "a"}), waits("no room"), Outlook(placed={0: "a"})):
        bulletin.look(1, outlook)
    assert [event.kind for event in told(tmp_path)] == [events.WAITING, events.PLACED] * 2


def test_in_the_end_places_that_were_not_told_yet_and_the_verdict(tmp_path: Path) -> None:
    failure = Failure(cause=Cause.lost, message="worker 1 was ended by SIGKILL", rank=1)
    Bulletin(open_store(str(tmp_path))).end(3, Outlook(placed={0: "a", 1: "a"}), failure, Ended(error="x", lost=(1,)))
    assert [event.kind for event in told(tmp_path)] == [events.PLACED]
    assert json.loads((tmp_path / paths.verdict(3)).read_text()) == {
        "cause": "lost",
        "message": "worker 1 was ended by SIGKILL",
        "rank": 1,
        "lost": [1],
    }


def test_storage_that_does_not_answer_is_no_reason_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise StorageError("no route")

    monkeypatch.setattr(LocalStore, "append", fails)
    monkeypatch.setattr(LocalStore, "write", fails)
    bulletin = Bulletin(open_store(str(tmp_path)))
    bulletin.look(1, waits("no room"))
    bulletin.end(1, Outlook(), Failure(cause=Cause.lost, message="x"), Ended())
