"""One run as people read it: its record, plan, events and failures, put in words."""

from __future__ import annotations

import shlex
import socket
from functools import cached_property
from typing import Any

import click

from orchestrator import paths
from orchestrator.errors import OrchestratorError
from orchestrator.plans.types import Plan
from orchestrator.records import events
from orchestrator.records.failure_report import first_failure, read_records
from orchestrator.records.failures import Record
from orchestrator.records.runs import Attempt, RunRecord, Status
from orchestrator.tracking import params
from orchestrator.tracking.store import resolve_uri

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
CURVES = 6
SMALLER_IS_BETTER = ("loss", "error", "perplexity", "mse", "mae", "rmse", "wer", "cer")
LARGER_IS_BETTER = ("accuracy", "acc", "f1", "auc", "precision", "recall", "r2", "bleu")


class RunReport:
    """One run; what it says is read when it is asked for."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    @cached_property
    def plan(self) -> Plan | None:
        """Its plan; None when that cannot be read, which must not hide the run."""
        try:
            return self.record.plan
        except (OSError, OrchestratorError):
            return None

    @cached_property
    def params(self) -> dict[str, str]:
        """Its settings, flat."""
        return params.flatten(self.plan.spec) if self.plan else {}

    @cached_property
    def _events(self) -> list[events.Event]:
        return events.EventReader(self.record.store).poll()

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Every metric's values by step, from the events of all attempts; the hardware's are left out."""
        found: dict[str, dict[int, float]] = {}
        for event in self._events:
            if event.kind == events.METRICS:
                for name, value in event.data.get("metrics", {}).items():
                    if not name.startswith("system/"):
                        found.setdefault(name, {})[event.step or 0] = value
        return {name: sorted(values.items()) for name, values in sorted(found.items())}

    @cached_property
    def results(self) -> dict[str, float]:
        """Its final metrics; of a run that has not come to its end, the newest there are."""
        return dict(sorted(self.record.final_metrics.items())) or {
            name: values[-1][1] for name, values in self.curves.items()
        }

    @property
    def status(self) -> str:
        """Its status; `lost` when it should be running on this machine and its process is gone."""
        record = self.record
        if record.status is Status.running and record.attempts and record.attempts[-1].host == socket.gethostname():
            import psutil

            if not psutil.pid_exists(record.attempts[-1].pid):
                return "lost"
        return record.status.value

    @cached_property
    def lacking(self) -> list[str]:
        """What MLflow's record of it lacks; nothing when it is not meant to have one, or that cannot be told."""
        from orchestrator.tracking.sync import lacking

        try:
            return lacking(self.record, self.plan) if self.plan else []
        except OrchestratorError:
            return []

    @property
    def strategy(self) -> str:
        """How its model's states were spread."""
        return self.plan.strategy if self.plan else "-"

    @property
    def precision(self) -> str:
        """Its number format."""
        return self.plan.precision if self.plan else "-"

    @property
    def workers(self) -> str:
        """How many workers it had last."""
        if self.record.attempts:
            return str(self.record.attempts[-1].world_size)
        return str(self.plan.preferred.world_size) if self.plan else "-"

    @property
    def step(self) -> int:
        """How far it came."""
        if self.record.step or self.record.status is not Status.running:
            return self.record.step
        return max((values[-1][0] for values in self.curves.values()), default=0)

    @property
    def monitored(self) -> tuple[str, str]:
        """The metric that 'best' goes by, and whether min or max is best."""
        monitor = self.plan.spec.get("job", {}).get("monitor", {}) if self.plan else {}
        mode = monitor.get("mode", "min")
        return f"val/{monitor.get('metric', 'loss')}", str(getattr(mode, "value", mode))

    @property
    def result(self) -> str:
        """The one number to know a run by."""
        name, _ = self.monitored
        for candidate in (name, "val/loss", "train/loss"):
            if candidate in self.results:
                return f"{candidate} {number(self.results[candidate])}"
        return ""

    @property
    def duration(self) -> str:
        """How long its attempts that have ended took."""
        seconds = sum(attempt.ended - attempt.started for attempt in self.record.attempts if attempt.ended)
        return ago(seconds) if seconds else ""

    def better(self, name: str) -> str | None:
        """Whether less (min) or more (max) of a metric is better; None when its name does not tell."""
        monitored, mode = self.monitored
        if name == monitored:
            return mode
        words = set(name.rsplit("/", 1)[-1].lower().replace("-", "_").split("_"))
        if words & set(SMALLER_IS_BETTER):
            return "min"
        return "max" if words & set(LARGER_IS_BETTER) else None

    def failures(self) -> list[Record]:
        """What workers left of the last attempt, the cause first."""
        if not self.record.attempts:
            return []
        return read_records(self.record.store, self.record.attempts[-1].number)

    def summary(self) -> dict[str, Any]:
        """What the list says of it, as data."""
        return {
            "id": self.record.id,
            "job": self.record.job,
            "status": self.status,
            "created": self.record.created,
            "strategy": self.strategy,
            "workers": int(self.workers) if self.workers.isdigit() else None,
            "step": self.step,
            "metrics": self.results,
            "folder": self.record.root,
            "lacking": self.lacking,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it, as data."""
        return {
            **self.record.to_dict(),
            "status": self.status,
            "metrics": self.results,
            "params": self.params,
            "failures": self.failures(),
            "restarts": [{"time": event.time, "attempt": event.attempt, **event.data} for event in self.restarts],
            "lacking": self.lacking,
            "next": self.next_commands(),
        }

    def attempt_lines(self) -> list[str]:
        """One line for each attempt, and one above it for why the driver began it."""
        told = {event.attempt: str(event.data["message"]) for event in self.restarts}
        lines = []
        for attempt in self.record.attempts:
            if attempt.reason:
                lines.append(f"     {told.get(attempt.number, attempt.reason)}")
            lines.append(_attempt_line(attempt))
        return lines

    @cached_property
    def restarts(self) -> list[events.Event]:
        """Each time that the driver began a further attempt by itself."""
        return [event for event in self._events if event.kind == events.RESTART]

    def history_lines(self) -> list[str]:
        """The course of the most telling metrics, each in one line."""
        first = [self.monitored[0], "train/loss"]
        names = [name for name in first if name in self.curves] + [name for name in self.curves if name not in first]
        lines = []
        for name in list(dict.fromkeys(names))[:CURVES]:
            values = [value for _, value in self.curves[name]]
            if len(values) > 1:
                lines.append(f"  {name:<28} {sparkline(values)}  {number(values[0])} -> {number(values[-1])}")
        return lines

    def failure_lines(self) -> list[str]:
        """Why it failed: the cause, and the end of its traceback."""
        if self.record.status is not Status.failed:
            return []
        failure = first_failure(self.record)
        return [
            click.style(f"  {line}", fg=None if number else "red")
            for number, line in enumerate(failure.lines() if failure else ())
        ]

    def place_lines(self) -> list[str]:
        """Where things lie."""
        record, store = self.record, self.record.store
        places = {"folder": "", "model": paths.MODEL, "checkpoints": paths.CHECKPOINTS, "logs": paths.LOGS}
        lines = [f"  {name:<11} {record.root}/{at}".rstrip("/") for name, at in places.items() if store.exists(at)]
        return [*lines, f"  {'MLflow':<11} {record.tracking_uri}"] if record.tracking_uri else lines

    def next_commands(self) -> list[str]:
        """What one may want to do now."""
        run, storage = self.record.id, self.record.storage_flag
        sync = [f"orchestrator runs sync {run}{storage}"] if self.lacking else []
        if self.status in ("failed", "stopped", "lost", "created"):
            return [f"orchestrator resume {run}{storage}", *sync]
        if self.status == "running":
            return [f"orchestrator runs show {run}{storage}"]
        again = f"orchestrator train --plan {shlex.quote(f'{self.record.root}/{paths.PLAN}')}"
        return [*sync, *self._page_command(), again]

    def look_commands(self) -> list[str]:
        """What shows more of it."""
        return [f"orchestrator runs show {self.record.id}{self.record.storage_flag}", *self._page_command()]

    def _page_command(self) -> list[str]:
        """The command that opens MLflow's page on the store it was recorded in, if it was."""
        record = self.record
        if not record.mlflow_run_id:
            return []
        storage = record.root.rsplit("/", 1)[0]
        if not paths.is_url(storage) and resolve_uri(None, storage).shown == record.tracking_uri:
            return [f"orchestrator ui{record.storage_flag}"]
        return [f"orchestrator ui --uri {shlex.quote(record.tracking_uri)}"]


def _attempt_line(attempt: Attempt) -> str:
    steps = "" if attempt.first_step is None else f"  steps {attempt.first_step} to {attempt.last_step}"
    if steps and attempt.status is Status.running:  # how far it came is written down in the end
        steps = f"  from step {attempt.first_step}"
    took = f"  {ago(attempt.ended - attempt.started)}" if attempt.ended else ""
    error = f"  {attempt.error.splitlines()[0]}" if attempt.error else ""
    return f"  {attempt.number}  {attempt.status.value:<9} {workers(attempt.world_size):<9}{steps}{took}{error}"


def sparkline(values: list[float]) -> str:
    """A curve in one line of text, no wider than WIDTH; what is not a number is a blank."""
    size = max(1, -(-len(values) // WIDTH))
    bins = [values[start : start + size] for start in range(0, len(values), size)]
    means = [sum(some) / len(some) for some in bins]
    finite = [mean for mean in means if mean - mean == 0]
    if not finite:
        return " " * len(means)
    low, span = min(finite), max(finite) - min(finite)
    return "".join(
        (BARS[round((mean - low) / span * (len(BARS) - 1))] if span else BARS[0]) if mean - mean == 0 else " "
        for mean in means
    )


def number(value: float) -> str:
    """A number in a form to read: 0.0312, 1.2e-05, 27773."""
    return str(round(value)) if 1000 <= abs(value) < 1e9 or value == int_or_none(value) else f"{value:.4g}"


def int_or_none(value: float) -> int | None:
    """The whole number that a small enough float is."""
    return int(value) if value - value == 0 and abs(value) < 1e9 and value == int(value) else None


def ago(seconds: float) -> str:
    """A time span in its two largest units."""
    seconds = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{seconds}s"


def workers(count: int | str) -> str:
    """Some workers, or one."""
    return f"{count} worker{'' if str(count) == '1' else 's'}"


def table(rows: list[list[str]], head: bool = False) -> str:
    """Columns of text, aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if head:
        lines[0] = click.style(lines[0], bold=True)
    return "\n".join(lines)
