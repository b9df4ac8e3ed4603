"""Plan, schedule and run distributed training: Hydra configs on Ray and DeepSpeed, recorded in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from orchestrator.cli.api import Job, Result, job, jobs, submit
    from orchestrator.runtime.reporting import checkpoint, report
    from orchestrator.runtime.task import Measured, Task

__version__ = "0.1.0"
__all__ = [
    "Job",
    "Measured",
    "OrchestratorError",
    "Result",
    "Task",
    "__version__",
    "checkpoint",
    "job",
    "jobs",
    "report",
    "submit",
]

_LATER = {
    "Job": "orchestrator.cli.api:Job",
    "Measured": "orchestrator.runtime.task:Measured",
    "Result": "orchestrator.cli.api:Result",
    "Task": "orchestrator.runtime.task:Task",
    "checkpoint": "orchestrator.runtime.reporting:checkpoint",
    "hand_in": "orchestrator.cli.api:submit",
    "job": "orchestrator.cli.api:job",
    "jobs": "orchestrator.cli.api:jobs",
    "report": "orchestrator.runtime.reporting:report",
}
"""Where names of the API are made; imported when they are asked for, so that `orchestrator --help` stays quick."""


def __getattr__(name: str) -> object:
    """Find what is imported late."""
    import importlib

    if name == "submit":  # the package of this name can be called
        return importlib.import_module("orchestrator.submit")
    if name in _LATER:
        module, _, attribute = _LATER[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
