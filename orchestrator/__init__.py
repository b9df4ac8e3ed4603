"""Plan, schedule and run distributed training: Hydra configs on Ray and DeepSpeed, recorded in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from orchestrator.runtime.task import Task

__version__ = "0.1.0"
__all__ = ["OrchestratorError", "Task", "__version__"]


def __getattr__(name: str) -> object:
    """Load what needs torch only when it is asked for, so that `orchestrator --help` stays quick."""
    if name == "Task":
        from orchestrator.runtime.task import Task

        return Task
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
