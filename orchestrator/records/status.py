"""Where a job stands: from run storage, and only where that cannot know, from Ray's word on the submission."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from orchestrator import paths
from orchestrator.records import events, logs
from orchestrator.records.events import Event
from orchestrator.records.failure_report import recent_events
from orchestrator.records.finder import Subject
from orchestrator.records.runs import Attempt, RunRecord, Status, is_over


class State(Enum):
    """What a job does."""

    queued = "queued"
    """It was submitted, and its driver has not begun."""
    waiting = "waiting"
    """Its driver waits for room."""
    starting = "starting"
    """Its workers are being started."""
    running = "running"
    stopping = "stopping"
    """Somebody asked it to stop, and it is saving."""
    finished = "finished"
    failed = "failed"
    stopped = "stopped"
    lost = "lost"
    """It should be running, and nobody runs it any more."""


OVER = frozenset({State.finished, State.failed, State.stopped, State.lost})
GONE = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
"""How Ray calls a submission that is over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayWord:
    """What Ray says of a submission."""

    status: str = ""
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; empty: it knows of none."""
    message: str = ""
    exit_code: int | None = None
    """Of its process, once that has ended."""


AskRay = Callable[[Subject], RayWord | None]
"""Asks the job's cluster; None where that cannot be reached."""


def nobody(subject: Subject) -> RayWord | None:
    """Ask nobody: for runs that were not submitted."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a job stands."""

    state: State
    since: float
    note: str = ""
    """What else there is to say: what it waits for, why it failed."""
    attempt: int = 0
    step: int | None = None
    nodes: Mapping[int, str] = field(default_factory=dict)
    """The node of each rank, once it is placed."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in OVER

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "state": self.state.value,
            "since": self.since,
            "note": self.note,
            "attempt": self.attempt,
            "step": self.step,
            "nodes": {str(rank): node for rank, node in self.nodes.items()},
        }


def stand(subject: Subject, ask: AskRay = nobody) -> Standing:
    """Where a job or run stands now."""
    run = subject.run
    if run is None or not run.attempts or _handed_in_again(subject, run):
        return _before_its_driver(subject, run, ask)
    attempt = run.attempts[-1]
    if run.status in (Status.finished, Status.failed, Status.stopped):
        note = next(iter(attempt.error.splitlines()), "")
        state, since = State(run.status.value), attempt.ended or attempt.started
        return Standing(state=state, since=since, note=note, attempt=attempt.number, step=run.step)
    lost = _why_lost(subject, run, ask)
    if lost:
        last = max([attempt.started, *(event.time for event in recent_events(subject.store, "rank-0"))])
        return Standing(state=State.lost, since=last, note=lost, attempt=attempt.number, step=_step(subject, attempt))
    return _alive(subject, attempt)


def _handed_in_again(subject: Subject, run: RunRecord) -> bool:
    """Whether it was submitted once more after its last attempt, and no driver has taken that up."""
    latest = subject.job.latest if subject.job else None
    return latest is not None and latest.attempt > len(run.attempts) and is_over(run)


def _before_its_driver(subject: Subject, run: RunRecord | None, ask: AskRay) -> Standing:
    job = subject.job
    if job is None or job.latest is None:
        since = job.created if job else run.created if run else 0.0
        note = "it was not handed to Ray; the same submit again completes it" if job else "nothing was started yet"
        return Standing(state=State.queued, since=since, note=note)
    since, attempt, word = job.latest.time, job.latest.attempt, ask(subject)
    if word is None:
        note = f"the cluster {job.cluster} cannot be asked from here" if job.cluster else "no cluster can be asked"
        return Standing(state=State.queued, since=since, note=note, attempt=attempt)
    if word.status in GONE:
        state = State.stopped if word.status == "STOPPED" else State.failed
        return Standing(state=state, since=since, note=word.message or "its driver never began", attempt=attempt)
    if not word.status:
        note = "Ray does not know of it; the same submit again completes it"
        return Standing(state=State.queued, since=since, note=note, attempt=attempt)
    note = "its driver makes the project ready" if run else "Ray is starting its driver"
    return Standing(state=State.queued, since=since, note=note, attempt=attempt)


def _why_lost(subject: Subject, run: RunRecord, ask: AskRay) -> str:
    """What speaks against a run that should be running; empty: nothing."""
    attempt = run.attempts[-1]
    if is_over(run):
        return f"its driver, process {attempt.pid} on {attempt.host}, is gone"
    if subject.job is None or subject.job.latest is None:
        return ""
    word = ask(subject)
    if word is not None and word.status in GONE:
        return f"Ray says that its driver {word.status.lower()}: {word.message}".rstrip(": ")
    if word is not None and not word.status:
        return "the cluster does not know of it any more"
    return ""


def _alive(subject: Subject, attempt: Attempt) -> Standing:
    told = [event for event in logs.driver_events(subject.store) if event.attempt == attempt.number]
    last = next((event for event in reversed(told) if event.kind in (events.WAITING, events.PLACED)), None)
    nodes = _nodes(last)
    stop = _stop_request(subject)
    step = _step(subject, attempt)
    if stop is not None:
        since = float(stop.get("time", attempt.started))
        return Standing(state=State.stopping, since=since, attempt=attempt.number, step=step, nodes=nodes)
    if attempt.first_step is not None or step is not None:
        since = last.time if last else attempt.started
        return Standing(state=State.running, since=since, attempt=attempt.number, step=step, nodes=nodes)
    if last and last.kind == events.WAITING:
        since, note = _waits_since(told), str(last.data["message"])
        return Standing(state=State.waiting, since=since, note=note, attempt=attempt.number)
    since = last.time if last else attempt.started
    return Standing(state=State.starting, since=since, attempt=attempt.number, nodes=nodes)


def _waits_since(told: list[Event]) -> float:
    """When the waiting that goes on began: its message may have changed meanwhile."""
    since = told[-1].time
    for event in reversed(told):
        if event.kind == events.PLACED:
            break
        if event.kind == events.WAITING:
            since = event.time
    return since


def _nodes(placed: Event | None) -> dict[int, str]:
    if placed is None or placed.kind != events.PLACED:
        return {}
    return {int(rank): str(node) for rank, node in placed.data.get("nodes", {}).items()}


def _step(subject: Subject, attempt: Attempt) -> int | None:
    """The newest step of an attempt."""
    told = recent_events(subject.store, "rank-0")
    steps = [event.step for event in told if event.attempt == attempt.number and event.step is not None]
    return steps[-1] if steps else attempt.last_step


def _stop_request(subject: Subject) -> dict[str, Any] | None:
    try:
        request = json.loads(subject.store.read(paths.STOP_REQUEST))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}
