"""A request to stop, as it reaches a run through its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import LocalStore, open_store
from orchestrator.records.stop_request import StopRequest
from orchestrator.runtime.driver import interrupts
from orchestrator.runtime.driver.interrupts import Interrupts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: moment[0])
    return moment


def test_nobody_asked(tmp_path: Path) -> None:
    assert not Interrupts(LocalStore(str(tmp_path))).look()
    assert not Interrupts().look()


def test_a_request_is_the_first_ctrl_c_until_its_time_is_over(tmp_path: Path, clock: list[float]) -> None:
    store = LocalStore(str(tmp_path))
    StopRequest(grace_s=30.0).write(store)
    asked = Interrupts(store)
    assert asked.look()
    clock[0] += 29.9
    assert asked.look()
    clock[0] += 0.1
    with pytest.raises(KeyboardInterrupt):
        asked.look()


def test_now_after_gracefully_ends_at_once(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    asked = Interrupts(store)
    StopRequest().write(store)
    assert asked.look()
    StopRequest(now=True).write(store)
    with pytest.raises(KeyboardInterrupt):
        asked.look()


def test_object_stores_are_asked_now_and_then(clock: list[float]) -> None:
    store = open_store("memory://stop-requests/run")
    asked = Interrupts(store)
    assert not asked.look()
    StopRequest().write(store)
    assert not asked.look()
    clock[0] += interrupts.REMOTE_LOOK_S
    assert asked.look()


def test_storage_that_does_not_answer_has_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(str(tmp_path))
    asked = Interrupts(store)
    StopRequest().write(store)
    assert asked.look()

    def fails(name: str) -> str:
        raise StorageError("gone")

    monkeypatch.setattr(store, "read", fails)
    assert asked.look(), "what was asked for stays so"
    assert not Interrupts(store).look()


def test_what_lies_there_is_json(tmp_path: Path) -> None:
    StopRequest(time=1.0).write(LocalStore(str(tmp_path)))
    assert json.loads((tmp_path / paths.STOP_REQUEST).read_text()) == {"now": False, "grace_s": 120.0, "time": 1.0}
