"""Stopping from outside: the request, waiting for its effect, and Ray's help when a driver does not react."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.cluster.node.home import Record, of
from orchestrator.errors import MachineError
from orchestrator.records.finder import Subject
from orchestrator.records.jobs import JobRecord, Submission
from orchestrator.records.status import Standing, State
from orchestrator.submission import stop


class World:
    """Where a run stands, one look after the other; time passes with each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *states: State) -> None:
        self.states = list(states)
        self.moment = 0.0
        self.stopped: list[str] = []
        monkeypatch.setattr(stop.status, "stand", self.stand)
        monkeypatch.setattr(stop.time, "monotonic", lambda: self.moment)
        monkeypatch.setattr(stop.time, "sleep", self.sleep)
        monkeypatch.setattr(stop, "RayJobs", lambda cluster: self)

    def stand(self, found: Subject, ask: object) -> Standing:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Standing(state=state, since=0.0)

    def sleep(self, seconds: float) -> None:
        self.moment += 10.0

    def stop(self, submission: str) -> None:
        self.stopped.append(submission)
        self.states = [State.failed]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    of("lab").write(Record(name="lab", role="head", address="a", ray="a:1", dashboard="http://a"))
    root = str(tmp_path / "run")
    submission = Submission(attempt=1, id="run-a1", time=1.0, host="h", cluster="lab")
    JobRecord(id="run", job="j", root=root, created=1.0, plan_digest="p", submissions=(submission,)).save()
    return Subject("run", root)


def request(found: Subject) -> dict[str, object] | None:
    file = Path(found.root) / paths.STOP_REQUEST
    return dict(json.loads(file.read_text())) if file.exists() else None


def test_a_run_that_goes_on_is_asked(found: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, State.running)
    assert stop.ask(found, now=False, grace_s=30.0).state is State.running
    told = request(found)
    assert told
    assert (told["now"], told["grace_s"]) == (False, 30.0)


def test_a_run_that_is_over_is_not_asked(found: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, State.finished)
    assert stop.ask(found, now=True, grace_s=0.0).is_over
    assert request(found) is None


def test_one_that_saves_in_time_is_waited_for(found: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, State.stopping, State.stopping, State.stopped)
    assert stop.wait(found, limit_s=120.0).state is State.stopped
    assert world.stopped == []


def test_a_driver_that_does_not_react_is_ended_by_ray(found: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, State.stopping)
    assert stop.wait(found, limit_s=30.0).state is State.failed
    assert world.stopped == ["run-a1"]
    assert world.moment >= 30.0 + stop.REACTION_S


def test_what_even_ray_cannot_end_is_told(found: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, State.stopping)
    monkeypatch.setattr(world, "stop", lambda submission: None)
    with pytest.raises(MachineError, match="Run run does not end: it is stopping"):
        stop.wait(found, limit_s=0.0)


def test_a_run_of_a_terminal_is_stopped_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, State.running)
    with pytest.raises(MachineError, match="was not submitted") as caught:
        stop.wait(Subject("other", str(tmp_path / "other")), limit_s=0.0)
    assert "Ctrl-C" in caught.value.hint
