"""The memory a plan needs: the model is measured here, on the machine that plans."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from orchestrator import paths
from orchestrator.config.schema import AUTO

if TYPE_CHECKING:
    from orchestrator.config.schema import JobSpec
    from orchestrator.plan.profile_types import ModelProfile
    from orchestrator.plan.types import Plan


def profile_of(plan: Plan, spec: JobSpec) -> ModelProfile | None:
    """The sizes of a plan's model; None where there is no torch to measure with."""
    if importlib.util.find_spec("torch") is None:
        return None
    from orchestrator.config import targets
    from orchestrator.profile import cache
    from orchestrator.runtime.engine import prepare

    project = paths.project_dir()
    task = targets.bind(plan.spec, project=project).task()
    sizes = [row.micro_batch for row in plan.rows]
    if spec.micro_batch == AUTO:
        # A second point, for the line along which all smaller micro-batches are judged.
        sizes.append(max(1, sizes[-1] // 4))
    return cache.profile(task, spec, sizes, prepare, project)
