"""Where everything lies: our own shipped files, the user's project, and every name in a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

# --- names inside a run's folder -------------------------------------------------------------------------------------
RECORD = "run.json"
"""Id, status, attempts: the run itself."""
PLAN = "plan.json"
CONFIG = "config.yaml"
"""The resolved config, as people read it."""
EVENTS = "events"
"""Folder of event files, one per writer."""
LOGS = "logs"
CHECKPOINTS = "checkpoints"
MODEL = "model"
"""The final model: model.safetensors, model.json."""
LEDGER = "tracking.json"
"""How much of the run MLflow has."""
STOP = "stop"
"""Its presence asks the workers to save and end."""
UNREADABLE = "unreadable.jsonl"
"""Items of the data that could not be used, and why."""
FAILURES = "failures"
"""One file per worker that ended with an exception."""

# --- names in the storage folder -------------------------------------------------------------------------------------
TRACKING = "mlflow"
"""Folder of the embedded MLflow store: database and artifacts."""


def worker_log(rank: int) -> str:
    """Log file of one worker, in a run's folder."""
    return f"{LOGS}/rank-{rank}.log"


def failure(attempt: int, rank: int) -> str:
    """Failure record of one worker, in a run's folder."""
    return f"{FAILURES}/attempt-{attempt}-rank-{rank}.json"


def shipped_conf() -> Path:
    """The conf/ folder we ship: inside the package when installed from a wheel, beside it in a checkout."""
    installed = Path(__file__).parent / "_conf"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "conf"


def pins() -> Path | None:
    """The file of exact versions we are tested with: inside the package, or beside it in a checkout."""
    installed = Path(__file__).parent / "_constraints.txt"
    file = installed if installed.is_file() else Path(__file__).parent.parent / "constraints.txt"
    return file if file.is_file() else None


def own_home() -> Path:
    """The folder for what belongs to a person and no project: the clusters they started."""
    return Path(os.environ.get("ORCHESTRATOR_HOME") or "~/.orchestrator").expanduser().absolute()


def project_dir() -> Path:
    """The user's project: the folder the command is started in."""
    return Path.cwd()


def project_conf() -> Path | None:
    """The project's own conf/ folder, if it has one that is not the shipped one."""
    conf = project_dir() / "conf"
    if conf.is_dir() and conf.resolve() != shipped_conf().resolve():
        return conf
    return None


def is_url(path: str) -> bool:
    """Whether a storage path is an fsspec URL rather than a folder."""
    return "://" in path


def absolute(path: str) -> str:
    """A storage path that means the same from every folder."""
    return path.rstrip("/") if is_url(path) else str((project_dir() / Path(path).expanduser()).resolve())
