"""Where everything lies: our own shipped files, the user's project, and every name in a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = "ORCHESTRATOR_PROJECT"
"""Environment: the project's folder, where commands are not started in it."""
PACKED = "ORCHESTRATOR_PACKED_PROJECT"
"""Environment: the file in which that project has come."""

# --- names inside a run's folder -------------------------------------------------------------------------------------
RECORD = "run.json"
"""Id, status, attempts: the run itself."""
PLAN = "plan.json"
CONFIG = "config.yaml"
"""The resolved config, as people read it."""
EVENTS = "events"
"""Folder of event files, one per writer."""
LOGS = "logs"
MARKS = "marks"
"""Folder of what is noted beside the logs: when which part was written, and where a worker was last."""
CHECKPOINTS = "checkpoints"
SCRIPT_CHECKPOINTS = "script-checkpoints"
"""What a training script of a person's own saves."""
MODEL = "model"
"""The final model: model.safetensors, model.json."""
LEDGER = "tracking.json"
"""How much of the run MLflow has."""
STOP = "stop"
"""Its presence asks the workers to save and end."""
EVALUATIONS = "evaluations"
"""One folder per split that was evaluated for good: metrics, the model's answers, plots."""
PLOTS = "plots"
"""Pictures of the run as a whole."""
UNREADABLE = "unreadable.jsonl"
"""Items of the data that could not be used, and why."""
FAILURES = "failures"
"""One file per worker that ended with an exception."""
JOB = "job.json"
"""What a run that was submitted is made of, and where it was handed in."""
STOP_REQUEST = "stop.json"
"""A person's request that the run end, as its driver reads it."""
DRIVER_LOG = f"{LOGS}/driver.log"
"""What the driver of a submitted run would have told a terminal."""

# --- names in the storage folder -------------------------------------------------------------------------------------
TRACKING = "mlflow"
"""Folder of the embedded MLflow store: database and artifacts."""
PACKAGES = "packages"
"""Folder of submitted projects, each under the digest of what it holds."""


def worker_log(rank: int) -> str:
    """Log file of one worker, in a run's folder."""
    return f"{LOGS}/rank-{rank}.log"


def log_times(log: str) -> str:
    """How far a log had come at which times, in a run's folder."""
    return f"{MARKS}/{log.removeprefix(f'{LOGS}/').removesuffix('.log')}.times"


def last_place(rank: int) -> str:
    """Which line of the person's code a worker was in last, in a run's folder."""
    return f"{MARKS}/rank-{rank}.place"


def verdict(attempt: int) -> str:
    """Why an attempt failed, as its driver judged it, in a run's folder."""
    return f"{FAILURES}/attempt-{attempt}.json"


def failure(attempt: int, rank: int) -> str:
    """Failure record of one worker, in a run's folder."""
    return f"{FAILURES}/attempt-{attempt}-rank-{rank}.json"


def package(storage: str, digest: str) -> str:
    """Where a submitted project lies in run storage."""
    return f"{storage}/{PACKAGES}/{digest}.zip"


def shipped_conf() -> Path:
    """The conf/ folder we ship: inside the package when installed from a wheel, beside it in a checkout."""
    installed = Path(__file__).parent / "_conf"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "conf"


def shipped_jobs() -> Path:
    """The Tasks we ship, which are imported as `orchestrator.jobs`: beside the package in a checkout."""
    installed = Path(__file__).parent / "jobs"
    return installed if (installed / "regression.py").is_file() else Path(__file__).parent.parent / "jobs"


def pins() -> Path | None:
    """The file of exact versions we are tested with: inside the package, or beside it in a checkout."""
    installed = Path(__file__).parent / "_constraints.txt"
    file = installed if installed.is_file() else Path(__file__).parent.parent / "constraints.txt"
    return file if file.is_file() else None


def own_home() -> Path:
    """The folder for what belongs to a person and no project: the clusters they started."""
    return Path(os.environ.get("ORCHESTRATOR_HOME") or "~/.orchestrator").expanduser().absolute()


def project_dir() -> Path:
    """The user's project: the folder the command is started in, unless it was started for one that was sent here."""
    return Path(os.environ.get(PROJECT) or Path.cwd())


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
    return path.rstrip("/") if is_url(path) else str((Path.cwd() / Path(path).expanduser()).resolve())
