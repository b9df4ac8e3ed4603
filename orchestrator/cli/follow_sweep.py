"""A submitted sweep's progress, until its sitting is over."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli import follow

if TYPE_CHECKING:
    from orchestrator.records.finder import Subject
    from orchestrator.records.status import Standing


def watch(found: Subject, *, as_json: bool = False) -> int:
    """Show how a sweep stands until its sitting is over; the exit code of the sitting, or of a person who left."""
    from orchestrator.cli.views.sweep import as_data, make_view, summary
    from orchestrator.sweeps import record
    from orchestrator.sweeps.report.report import Report

    view, known = make_view(sys.stderr), record.load(found.storage, found.id)

    def look(now: Standing) -> None:
        view.show(Report(record=known, book=known.book()))

    try:
        end = follow.follow(found, look, follow.command("attach", found))
    finally:
        view.close()
    if end is None:
        return follow.DETACHED
    for line in [f"{found.id} {end.state.value}: {end.note}"] if end.note else []:
        click.echo(line, err=True)
    report = Report(record=known, book=known.book())
    click.echo(json.dumps(as_data(report), indent=2) if as_json else summary(report))
    return follow.exit_code(found.fresh(), end)
