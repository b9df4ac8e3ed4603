"""What the verbs that look at jobs share: their options, finding the run, following it, and leaving it alone again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from orchestrator import paths

if TYPE_CHECKING:
    from orchestrator.records.finder import Subject
    from orchestrator.records.status import Standing

POLL_S = 0.5
REMOTE_POLL_S = 3.0
"""Between two looks at an object store, where each costs time and money."""
STOPPED = 130
DETACHED = 130
"""Exit code of a follower that was left before the run was over."""


def on_the_head(cluster_file: str | None) -> None:
    """Where a cluster.yaml is named, the same command runs on that cluster's head, and this one ends with it."""
    if cluster_file:
        from orchestrator.submission import remote

        sys.exit(remote.forward(cluster_file, sys.argv[1:]))


def find(run: str, storage: str | None) -> Subject:
    """The run that is meant."""
    from orchestrator.records import finder

    return finder.find(run, storage)


def standing(found: Subject) -> Standing:
    """Where it stands now."""
    from orchestrator.records import status
    from orchestrator.submission import ray_status

    return status.stand(found, ray_status.ask)


def follow(found: Subject, look: Callable[[Standing], None], again: str) -> Standing | None:
    """Look again and again until the run is over; None when a person left before that, which ends nothing else.

    Where it stands is asked before each look, so that the last look sees all that there was.
    """
    pause = REMOTE_POLL_S if paths.is_url(found.root) else POLL_S
    try:
        while True:
            now = standing(found.fresh())
            look(now)
            if now.is_over:
                return now
            time.sleep(pause)
    except KeyboardInterrupt:
        click.echo(f"\nDetached: {found.id} goes on without you. Look again: {again}", err=True)
        return None


def command(verb: str, found: Subject, options: str = "") -> str:
    """What to type to look again."""
    return f"orchestrator {verb} {found.id}{options}{found.storage_flag}"


def failure_lines(found: Subject) -> list[str]:
    """Why it failed, the cause first; empty when it did not."""
    from orchestrator.records.failure_report import first_failure

    failure = first_failure(found.run) if found.run else None
    if failure is None:
        return []
    first, *rest = failure.lines()
    return [click.style(first, fg="red"), *rest]


def echo_json(data: Any) -> None:
    """Print data."""
    click.echo(json.dumps(data, indent=2))


def exit_code(found: Subject, end: Standing) -> int:
    """What the command that carried the run out ended with."""
    from orchestrator.records.status import State
    from orchestrator.submission import ray_status

    if end.state in (State.finished, State.stopped):
        return 0 if end.state is State.finished else STOPPED
    told = found.run.attempts[-1].exit_code if found.run and found.run.attempts else None
    word = None if told else ray_status.ask(found)
    return told or (word.exit_code if word else None) or 1
