"""What Ray says of a job's driver, asked now and then and never for long: run storage tells the rest."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from orchestrator.cluster.node import home
from orchestrator.errors import ConfigError, MachineError
from orchestrator.records.finder import Subject
from orchestrator.records.status import RayWord
from orchestrator.submission.ray_jobs import RayJobs

KEPT_S = 3.0
"""For so long an answer counts."""
PATIENCE_S = 5.0
"""A head that has not answered after this cannot be asked: looking at a job must not hang with it."""


class _Answer(NamedTuple):
    time: float
    word: RayWord | None


_answers: dict[str, _Answer] = {}


def ask(subject: Subject) -> RayWord | None:
    """Ray's word on the latest submission; None where its cluster cannot be asked."""
    latest = subject.job.latest if subject.job else None
    if latest is None:
        return None
    known = _answers.get(latest.id)
    if known is None or time.monotonic() - known.time > KEPT_S:
        known = _answers[latest.id] = _Answer(time.monotonic(), _within_patience(latest.id, latest.cluster))
    return known.word


def _within_patience(submission: str, cluster: str) -> RayWord | None:
    found: list[RayWord | None] = []
    asking = threading.Thread(target=lambda: found.append(_asked(submission, cluster)), daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return found[0] if found else None


def _asked(submission: str, cluster: str) -> RayWord | None:
    try:
        record = home.of(cluster).read()
        if record is None:
            return None
        told = RayJobs(record).get(submission)
    except (MachineError, ConfigError, OSError, ValueError):
        return None
    return RayWord(status=told.status, message=told.message, exit_code=told.exit_code) if told else RayWord()
