"""A run's progress as the terminal that started it would show it, until the run is over."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli import follow
from orchestrator.records import events

if TYPE_CHECKING:
    from orchestrator.cli.views.progress import LiveView, PlainView
    from orchestrator.records.events import Event
    from orchestrator.records.finder import Subject
    from orchestrator.records.status import Standing
    from orchestrator.submission.enqueue import Handed

EARLIER = 5
"""Lines about what happened before somebody began to watch."""


def watch(found: Subject, *, as_json: bool = False) -> int:
    """Show a run's progress on stderr and its end on stdout; the exit code of the run, or of a person who left."""
    from orchestrator.cli.views.progress import make_view

    if found.job and found.job.sweep:
        from orchestrator.cli import follow_sweep

        return follow_sweep.watch(found, as_json=as_json)
    view = make_view(sys.stderr)
    watcher = _Watcher(found, view)
    try:
        end = follow.follow(found, watcher.look, follow.command("attach", found))
    finally:
        view.close()
    if end is None:
        return follow.DETACHED
    _conclude(found.fresh(), end, as_json=as_json)
    return follow.exit_code(found.fresh(), end)


def after_submission(handed: Handed, *, as_json: bool, wait: bool) -> int:
    """Show what was submitted, or follow it until it is over; the exit code."""
    from orchestrator.cli.views import job as view
    from orchestrator.records.finder import Subject

    if not wait:
        view.show(handed, as_json=as_json)
        return 0
    if not handed.job.sweep:
        click.echo(view.headline(handed), err=True)
    return watch(Subject(handed.job.id, handed.job.root), as_json=as_json)


def _conclude(found: Subject, end: Standing, *, as_json: bool) -> None:
    from orchestrator.cli.views.progress import render_summary
    from orchestrator.cli.views.runs import RunReport

    failure = follow.failure_lines(found)
    for line in failure or ([f"{found.id} {end.state.value}: {end.note}"] if end.note else []):
        click.echo(line, err=True)
    if found.run is None:
        return
    if as_json:
        click.echo(json.dumps({**found.run.summary(), "status": end.state.value}, indent=2))
    elif failure:
        click.echo(f"More: {follow.command('jobs show', found)}", err=True)
    else:
        summary = {**found.run.summary(), "status": end.state.value}
        render_summary(summary, RunReport(found.run).look_commands(), sys.stdout)


class _Watcher:
    """Passes on what happens; of what happened before, only the end."""

    def __init__(self, found: Subject, view: PlainView | LiveView) -> None:
        from orchestrator.records.events import EventReader

        self._view = view
        self._reader = EventReader(found.store)
        self._standing = ("", "")
        self._first = True

    def look(self, now: Standing) -> None:
        """Tell what is new."""
        from orchestrator.records.status import State

        new = self._reader.poll()
        if self._first:
            self._first = False
            new = self._recent(new)
        for event in new:
            text = driver_line(event)
            if text:
                self._view.say(text)
            self._view.event(event)
        if now.state in (State.queued, State.stopping) and self._standing != (now.state.value, now.note):
            self._standing = (now.state.value, now.note)
            self._view.say(f"{now.state.value}{f': {now.note}' if now.note else ''}")

    def _recent(self, past: list[Event]) -> list[Event]:
        """What sets the bar, and the last few things that are worth a line."""
        from orchestrator.cli.views.progress import milestone

        started = [event for event in past if event.kind == events.STARTED][-1:]
        trained = [event for event in past if "train/loss" in event.data.get("metrics", {})][-1:]
        told = [event for event in past if milestone(event) or driver_line(event)][-EARLIER:]
        chosen = {id(event) for event in (*started, *trained, *told)}
        return [event for event in past if id(event) in chosen]


def driver_line(event: Event) -> str:
    """What the driver told of an attempt, as a line; nothing for other events."""
    if event.kind == events.WAITING:
        return f"waiting: {event.data['message']}"
    if event.kind == events.PLACED:
        nodes: dict[str, list[str]] = {}
        for rank, node in event.data["nodes"].items():
            nodes.setdefault(node, []).append(rank)
        return "placed: " + ", ".join(f"rank {', '.join(ranks)} on {node}" for node, ranks in nodes.items())
    if event.kind == events.RESTART:
        return f"attempt {event.attempt}: {event.data['message']}"
    return ""
