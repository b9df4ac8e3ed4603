"""Why a job is not running: what binds, on which nodes, who holds it, and the smallest change that would start it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.foundation.units import show_bytes
from orchestrator.plans.placement.misfit import count
from orchestrator.records import events, logs
from orchestrator.records.failure_report import first_failure
from orchestrator.records.finder import Subject
from orchestrator.records.status import Standing, State

AMOUNTS = (("cpus", "CPU"), ("gpus", "GPU"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """What can be said of a job that is asked why it does not run."""

    standing: Standing
    says: str
    """In one line."""
    waiting: Mapping[str, Any] = field(default_factory=dict)
    """What it waits for in detail: `binding`, `nodes`, `holders`, `until`, `changes`; empty where it does not."""
    do: tuple[str, ...] = ()
    """What would start it, the smallest change first."""

    def lines(self) -> list[str]:
        """For people."""
        told = [self.says]
        if self.waiting.get("binding"):
            told += [f"binds: {self.waiting['binding']}"]
        told += [f"  {line}" for line in node_lines(self.waiting)]
        if self.do:
            told += ["what would start it:", *(f"  {line}" for line in self.do)]
        return told

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.standing.to_dict(), "says": self.says, "waiting": dict(self.waiting), "do": list(self.do)}


def explain(subject: Subject, standing: Standing) -> Why:
    """Why a job does not run, or that it does, given where it stands."""
    if standing.state is State.waiting:
        told = [event for event in logs.driver_events(subject.store) if event.kind == events.WAITING]
        waiting = told[-1].data
        says = f"{subject.id} waits for room: {standing.note}"
        return Why(standing=standing, says=says, waiting=waiting, do=tuple(_do(subject, waiting)))
    return Why(standing=standing, says=f"{subject.id} {_in_words(subject, standing)}")


def _in_words(subject: Subject, standing: Standing) -> str:
    step = "" if standing.step is None else f" at step {standing.step}"
    places = ", ".join(dict.fromkeys(standing.nodes.values()))
    where = f" on {places}" if places else ""
    match standing.state:
        case State.running:
            return f"is running{step}{where}: it waits for nothing."
        case State.starting:
            return f"has its places{where} and is starting its workers." if where else "is starting."
        case State.stopping:
            return f"was asked to stop, and is saving{step}."
        case State.finished:
            return f"has finished{step}."
        case State.queued:
            return f"is queued: {standing.note}."
        case State.stopped:
            return f"was stopped{step}. Go on with: orchestrator resume {subject.id}{subject.storage_flag}"
        case State.lost:
            return f"is lost: {standing.note}. Go on with: orchestrator resume {subject.id}{subject.storage_flag}"
        case _:
            failure = first_failure(subject.run) if subject.run else None
            return f"failed{step}: {failure.lines()[0] if failure else standing.note}"


def _do(subject: Subject, waiting: Mapping[str, Any]) -> Iterator[str]:
    """The ends of others first, since they come by themselves; then what could be asked for instead."""
    until = list(waiting.get("until", ()))
    if until and waiting.get("together"):
        yield f"it starts by itself when {' and '.join(until)} have ended"
    elif until:
        yield f"it starts by itself when {' or '.join(until)} ends"
    for change in waiting.get("changes", ()):
        settings = " ".join(change["settings"])
        yield f"submit it {'without' if change.get('leave_out') else 'with'} {settings}"
    if not until and not waiting.get("changes") and waiting.get("hint"):
        yield str(waiting["hint"]).splitlines()[0]


def node_lines(waiting: Mapping[str, Any]) -> list[str]:
    """One line for each node: what is free of it, and who holds the rest."""
    lines = []
    for node in waiting.get("nodes", ()):
        free, everything = node["free"], node["all"]
        parts = [f"{free[name]:g} of {everything[name]:g} {unit}s" for name, unit in AMOUNTS if everything[name]]
        if everything["memory"]:
            parts.append(f"{show_bytes(free['memory'])} of {show_bytes(everything['memory'])}")
        held = [holding for holding in waiting.get("holders", ()) if holding["node"] == node["node"]]
        who = [f"{holding['run']} holds {_held(holding)}" for holding in held]
        who += _others(node, held)
        takes = f"room for {count(node['workers'], 'worker')}" if node["workers"] else "no room"
        lines.append("; ".join([f"{node['node']}: {', '.join(parts)} free, {takes}", *who]))
    return lines


def _held(holding: Mapping[str, Any]) -> str:
    parts = [count(holding[name], unit) for name, unit in AMOUNTS if holding[name]]
    parts += [show_bytes(holding["memory"])] if holding["memory"] else []
    return f"{', '.join(parts)} for {count(holding['workers'], 'worker')}"


def _others(node: Mapping[str, Any], held: list[Mapping[str, Any]]) -> list[str]:
    """What is in use and not by runs of ours."""
    parts = []
    for name, unit in AMOUNTS:
        rest = node["all"][name] - node["free"][name] - sum(holding[name] for holding in held)
        if rest > 0.01:
            parts.append(count(round(rest, 2), unit))
    return [f"other work on Ray holds {', '.join(parts)}"] if parts else []
