"""Plan, schedule and run distributed training: Hydra configs on Ray and DeepSpeed, recorded in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError
from orchestrator.foundation.version import __version__

if TYPE_CHECKING:
    from orchestrator.api import Job, Result, job, runs, submit
    from orchestrator.runtime.worker.reporting import checkpoint, report
    from orchestrator.task import Measured, Task

__all__ = [
    "Job",
    "Measured",
    "OrchestratorError",
    "Result",
    "Task",
    "__version__",
    "checkpoint",
    "job",
    "report",
    "runs",
    "submit",
]

_LATER = {
    "Job": "orchestrator.api:Job",
    "Measured": "orchestrator.task:Measured",
    "Result": "orchestrator.api:Result",
    "Task": "orchestrator.task:Task",
    "checkpoint": "orchestrator.runtime.worker.reporting:checkpoint",
    "job": "orchestrator.api:job",
    "report": "orchestrator.runtime.worker.reporting:report",
    "runs": "orchestrator.api:runs",
    "submit": "orchestrator.api:submit",
}
"""Where names of the API are made; imported when they are asked for, so that `orchestrator --help` stays quick."""


def __getattr__(name: str) -> object:
    """Find what is imported late."""
    import importlib

    if name in _LATER:
        module, _, attribute = _LATER[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
