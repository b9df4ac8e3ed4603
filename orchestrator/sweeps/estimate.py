"""How long a trial will take, as far as earlier runs of the same job tell."""

from __future__ import annotations

from orchestrator import paths
from orchestrator.errors import OrchestratorError
from orchestrator.records.runs import Status, list_runs
from orchestrator.sweeps.definition import Definition

LOOKED_AT = 20
"""Runs that are looked at, newest first: each is a file to read."""


def seconds_per_unit(definition: Definition) -> float | None:
    """Seconds of an epoch (or step) in the newest finished run of the job with as many workers; None: there is none."""
    storage = paths.absolute(definition.spec.storage.path)
    try:
        known = list_runs(storage)[-LOOKED_AT:]
    except OrchestratorError:
        return None
    for record in reversed(known):
        if record.job != definition.spec.job.name or record.status is not Status.finished or not record.step:
            continue
        job = record.plan.spec["job"]
        length = job.get(definition.unit)
        if length:
            seconds = sum((a.ended or a.started) - a.started for a in record.attempts)
            return seconds / float(length)
    return None
