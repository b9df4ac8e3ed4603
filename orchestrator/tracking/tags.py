"""The tags of a run: who ran what code, by MLflow's conventions, and what of ours it was."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

from orchestrator.foundation.version import __version__
from orchestrator.plans.types import Plan
from orchestrator.records.runs import RunRecord
from orchestrator.tracking.store import without_password

GIT_TIMEOUT_S = 5.0


def collect(record: RunRecord, plan: Plan, project: Path) -> dict[str, str]:
    """All tags of a run."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": plan.task,
        "mlflow.source.type": "LOCAL",
        **git(project),
        "orchestrator.run_id": record.id,
        "orchestrator.plan_digest": record.plan_digest,
        "orchestrator.version": __version__,
        "strategy": plan.strategy,
        "precision": plan.precision,
        **of_attempt(record, plan),
    }


def of_attempt(record: RunRecord, plan: Plan) -> dict[str, str]:
    """The tags that a further attempt changes."""
    attempt = record.attempts[-1] if record.attempts else None
    return {
        "orchestrator.attempt": str(attempt.number if attempt else 1),
        "world_size": str(attempt.world_size if attempt else plan.preferred.world_size),
    }


def git(project: Path) -> dict[str, str]:
    """Commit, branch and remote of the project's code; nothing when it is in no repository, or git is not there."""
    commit = _git(project, "rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _git(project, "status", "--porcelain", "--untracked-files=no")
    found = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": _git(project, "symbolic-ref", "--short", "-q", "HEAD"),
        "mlflow.source.git.repoURL": without_password(_git(project, "config", "--get", "remote.origin.url") or ""),
        "orchestrator.git_dirty": None if changes is None else str(bool(changes)).lower(),
    }
    return {name: value for name, value in found.items() if value}


def _git(project: Path, *arguments: str) -> str | None:
    """What git says; None when it cannot say."""
    try:
        result = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(project), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
