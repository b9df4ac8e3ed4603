"""The first failure first: the person's own exception, the worker and place it came from, and what that worker said.

Everything is read from run storage: what the workers kept of their exceptions, what the driver made of it, and logs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.errors import RunFailedError, StorageError
from orchestrator.foundation.storage import Store
from orchestrator.records import logs
from orchestrator.records.events import Event, read_event
from orchestrator.records.failures import Record, by_weight, is_about_connection, is_out_of_memory
from orchestrator.records.logs import Places
from orchestrator.records.runs import RunRecord, Status

LOG_LINES = 5
TRACE_LINES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstFailure:
    """Why a run failed, with the cause first."""

    message: str
    """The exception, or what became of the worker, in one line."""
    attempt: int
    rank: int | None = None
    node: str = ""
    step: int | None = None
    """The last step that was noted before."""
    where: str = ""
    """`file:line` in the person's code; of a worker that was killed, where it was last seen."""
    function: str = ""
    code: str = ""
    """That line."""
    seen: float | None = None
    """When a worker that was killed was seen there; None: the exception itself names the place."""
    advice: str = ""
    traceback: str = ""
    log: tuple[str, ...] = ()
    """The last lines of that worker's log, before the traceback."""
    others: tuple[str, ...] = ()
    """What became of the other workers, a line each."""

    def lines(self) -> list[str]:
        """For people: cause, worker and place in the first three lines, then the log, then the rest."""
        told = [self.message]
        told += [f"  {self._origin()}"] if self.rank is not None else []
        told += [f"      {self.code}"] if self.code else []
        told += [f"  {line}" for line in self.advice.splitlines()]
        told += ["  last lines of its log:"] if self.log else []
        told += [f"    | {line}" for line in self.log]
        told += ["  traceback:", *(f"    {line}" for line in self.traceback.splitlines())] if self.traceback else []
        told += ["  other workers:", *(f"    {line}" for line in self.others)] if self.others else []
        return told

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    def _origin(self) -> str:
        """Worker, node, place and step, as far as they are known."""
        node = f" on {self.node}" if self.node else ""
        inside = f" in {self.function}" if self.function and not self.function.startswith("<") else ""
        last_seen = "last seen " if self.seen is not None else ""
        place = f", {last_seen}at {self.where}{inside}" if self.where else ""
        step = f", after step {self.step}" if self.step else ""
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"worker {self.rank}{node}{place}{step}{again}"


def first_failure(record: RunRecord) -> FirstFailure | None:
    """Why the last attempt of a run failed; None if it did not."""
    if not record.attempts or record.attempts[-1].status is not Status.failed:
        return None
    attempt, store = record.attempts[-1], record.store
    try:
        records = read_records(store, attempt.number)
        verdict = _read_json(store, paths.verdict(attempt.number)) or {}
        places = Places(event for event in logs.driver_events(store) if event.attempt == attempt.number)
        own = next((told for told in records if not is_about_connection(told)), None)
        if own:
            return _of_exception(record, own, records, places)
        return _of_loss(record, verdict, records, places)
    except StorageError:
        return FirstFailure(message=_first_line(attempt.error), attempt=attempt.number)


def with_details(error: RunFailedError, record: RunRecord) -> RunFailedError:
    """The error of a run that failed, with what there is to say below its first line."""
    failure = first_failure(record)
    return RunFailedError(error.message, "\n".join([*(failure.lines()[1:] if failure else ()), error.hint]))


def read_records(store: Store, attempt: int) -> list[Record]:
    """What workers kept of their exceptions in an attempt, the cause first."""
    names = [name for name in store.list(paths.FAILURES) if name.startswith(f"attempt-{attempt}-")]
    read = (_read_json(store, f"{paths.FAILURES}/{name}") for name in names)
    return by_weight(record for record in read if record)


def _of_exception(record: RunRecord, first: Record, records: Sequence[Record], places: Places) -> FirstFailure:
    store, rank = record.store, int(first["rank"])
    traceback = str(first.get("traceback", ""))
    text = " ".join(str(first["message"]).split())
    return FirstFailure(
        message=f"{first['type']}: {text}" if text else str(first["type"]),
        attempt=record.attempts[-1].number,
        rank=rank,
        node=places.node(rank, None),
        step=_last_step(store, record.attempts[-1].number),
        where=shown_place(str(first.get("where", "")), str(first.get("project") or record.project)),
        function=str(first.get("function", "")),
        code=str(first.get("code", "")),
        advice=_advice(first),
        traceback=_own_part(traceback, str(first.get("project") or record.project)),
        log=tuple(_without_traceback(logs.last_lines(store, rank, 200), traceback)[-LOG_LINES:]),
        others=tuple(_other(other) for other in records if other is not first),
    )


def _of_loss(record: RunRecord, verdict: Mapping[str, Any], records: Sequence[Record], places: Places) -> FirstFailure:
    """Nobody left an exception that explains it: a worker was killed, or never came to be."""
    store, attempt = record.store, record.attempts[-1]
    lost = verdict.get("rank") if verdict.get("lost") else None
    message, _, hint = attempt.error.strip().partition("\n")
    message = message or str(verdict.get("message", ""))
    if lost is None:
        others = tuple(_other(other) for other in records)
        return FirstFailure(message=message, attempt=attempt.number, advice=hint, others=others)
    seen = _read_json(store, paths.last_place(lost)) or {}
    killed = verdict["message"].endswith("want of memory") or "SIGKILL" in verdict["message"]
    return FirstFailure(
        message=message,
        attempt=attempt.number,
        rank=lost,
        node=places.node(lost, None),
        step=_last_step(store, attempt.number),
        where=str(seen.get("where", "")),
        function=str(seen.get("function", "")),
        code=str(seen.get("code", "")),
        seen=seen.get("time"),
        advice=MEMORY_ADVICE if killed else "",
        log=tuple(logs.last_lines(store, lost, LOG_LINES)),
        others=tuple(_other(other) for other in records),
    )


MEMORY_ADVICE = "if memory ran out: a smaller micro_batch, strategy=zero3, or more with cluster.memory_per_worker"


def _advice(failure: Record) -> str:
    text = f"{failure['type']}: {failure['message']}"
    if is_out_of_memory(text):
        return "memory ran out: a smaller micro_batch, strategy=zero3, or more with cluster.memory_per_worker"
    if failure["type"] == "ModuleNotFoundError":
        return "name the package in requirements.txt, or install it on the nodes"
    return ""


def shown_place(where: str, project: str) -> str:
    """`file:line`, from the project's folder if it lies in there."""
    file, _, line = where.rpartition(":")
    if not file or not Path(file).is_relative_to(project or "/nowhere"):
        return where
    return f"{Path(file).relative_to(project)}:{line}"


def _own_part(traceback: str, project: str) -> str:
    """A traceback from where it enters the person's code, or else the end of it."""
    lines = [line for line in traceback.rstrip().splitlines() if line.strip("^~ ")]
    entered = [
        n for n, line in enumerate(lines) if line.startswith(f'  File "{project}/') and "site-packages" not in line
    ]
    own = lines[entered[0] if entered else 0 :][-TRACE_LINES:]
    return "\n".join(own).replace(f'File "{project}/', 'File "')


def _other(failure: Record) -> str:
    if is_about_connection(failure):
        return f"worker {failure['rank']} lost the connection"
    return f"worker {failure['rank']}: {failure['type']}: {_first_line(str(failure['message']))}"


def _without_traceback(lines: list[str], traceback: str) -> list[str]:
    """The lines of a log before the traceback that it ends with."""
    first = next(iter(traceback.splitlines()), "")
    if first not in lines:
        return lines
    return lines[: len(lines) - 1 - lines[::-1].index(first)]


def _last_step(store: Store, attempt: int) -> int | None:
    """The last step that an attempt told of."""
    found = [event for event in recent_events(store, "rank-0") if event.attempt == attempt and event.step is not None]
    return found[-1].step if found else None


def recent_events(store: Store, writer: str, limit: int = 1 << 16) -> list[Event]:
    """The last events of a writer, without those of long ago."""
    text = logs.ending(store, f"{paths.EVENTS}/{writer}.jsonl", limit)
    return [event for line in text.split("\n") if (event := read_event(line))]


def _read_json(store: Store, name: str) -> dict[str, Any] | None:
    """A file that may not be there, or be damaged: what it says only explains."""
    try:
        data = json.loads(store.read(name))
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
