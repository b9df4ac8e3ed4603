"""Training as people watch it: a live bar on a terminal, plain lines elsewhere, a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.cli.views.runs import number
from orchestrator.records import events
from orchestrator.records.events import Event

if TYPE_CHECKING:
    from rich.console import Console


class PlainView:
    """Lines, at most one about steps per `interval_s`; made for log files and pipes."""

    def __init__(self, stream: TextIO, interval_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._interval = interval_s
        self._clock = clock
        self._shown = 0.0
        self._total: int | None = None

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=self._stream, flush=True)

    def event(self, event: Event) -> None:
        """Tell what is worth a line."""
        if event.kind == events.STARTED:
            self._total = event.data["total_steps"]
        elif event.kind == events.METRICS and "train/loss" in event.data["metrics"]:
            now = self._clock()
            if now - self._shown >= self._interval:
                self._shown = now
                of_all = f"/{self._total}" if self._total else ""
                self.say(f"step {event.step}{of_all}  {step_line(event.data['metrics'])}")
        text = milestone(event)
        if text:
            self.say(text)

    def close(self) -> None:
        """Nothing to let go of."""


class LiveView:
    """A progress bar with loss, speed and time to go."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("starting", total=None, metrics="")
        self._progress.start()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, highlight=False)

    def event(self, event: Event) -> None:
        """Move the bar, and tell what is worth a line."""
        if event.kind == events.STARTED:
            self._progress.reset(
                self._bar, total=event.data["total_steps"], completed=event.step or 0, description="training"
            )
        elif event.kind == events.METRICS and "train/loss" in event.data["metrics"]:
            self._progress.update(self._bar, completed=event.step, metrics=step_line(event.data["metrics"]))
        text = milestone(event)
        if text:
            self.say(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


def make_view(stream: TextIO) -> PlainView | LiveView:
    """The view that fits where output goes."""
    from rich.console import Console

    console = Console(file=stream)
    return PlainView(stream) if not console.is_terminal or console.is_dumb_terminal else LiveView(console)


def step_line(metrics: dict[str, float]) -> str:
    """The numbers of one step."""
    speed = metrics.get("train/samples_per_second")
    return f"loss {metrics['train/loss']:.4g}" + (f"  {number(speed)} samples/s" if speed else "")


def milestone(event: Event) -> str:
    """The line that an event deserves, or nothing."""
    if event.kind == events.STARTED:
        data = event.data
        start = f" from step {event.step}" if event.step else ""
        workers = f"{data['world_size']} worker{'s' if data['world_size'] > 1 else ''}"
        steps = f" {data['total_steps']} steps" if data["total_steps"] else ""
        size = f", {data['parameters']:,} parameters" if data["parameters"] else ""
        return f"training{steps}{start} with {workers} on {data['device'].split(':')[0]}{size}"
    if event.kind == events.EVALUATED:
        return f"step {event.step}  " + "  ".join(
            f"{name} {value:.4g}" for name, value in event.data["metrics"].items()
        )
    if event.kind == events.CHECKPOINT and event.data["best"]:
        return f"step {event.step}  best so far, saved as {event.data['name']}"
    if event.kind == events.NOTE:
        return f"note: {event.data['message']}"
    return ""


def render_summary(summary: dict[str, Any], commands: list[str], stream: TextIO) -> None:
    """What a person wants to know at the end, and the commands that show more."""
    metrics = "  ".join(
        f"{name} {value:.4g}"
        for name, value in summary["metrics"].items()
        if not name.startswith(("system/", "train/"))
    )
    run = summary["run"]
    attempts = f", in {summary['attempts']} attempts" if summary["attempts"] > 1 else ""
    after = f" after {summary['steps']} steps" if summary["steps"] else ""
    lines = [
        f"run {run} {summary['status']}{after} in {summary['seconds']:.0f} s{attempts}",
        f"  metrics      {metrics}" if metrics else "",
        f"  folder       {summary['folder']}",
        f"  checkpoint   {summary['checkpoint']}" if summary["checkpoint"] else "",
        f"  MLflow       {summary['tracking_uri']}  run {summary['mlflow_run_id']}" if summary["mlflow_run_id"] else "",
    ]
    steps = [f"{'next:' if n == 0 else '':<5} {command}" for n, command in enumerate(commands)]
    print("\n".join(["", *(line for line in lines if line), "", *steps]), file=stream)
