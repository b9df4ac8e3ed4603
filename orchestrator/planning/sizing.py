"""The memory a plan needs: the model is measured by the machine that plans, or by the cluster that it plans for."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from orchestrator import paths
from orchestrator.config.schema import AUTO, LauncherName

if TYPE_CHECKING:
    from orchestrator.config.schema import JobSpec
    from orchestrator.plans.memory.profile_types import ModelProfile
    from orchestrator.plans.types import Plan

ELSEWHERE = "torch is not installed here: the cluster measured the model and checked the code that the config names."
UNMEASURED = (
    "Memory is not known, and the code that the config names was not checked: torch is not installed here, and no "
    "cluster is named that could do it (cluster.address)."
)


def profile_of(plan: Plan, spec: JobSpec) -> tuple[ModelProfile | None, str]:
    """The sizes of a plan's model, and what is to be said about where they come from; None: nobody could measure."""
    sizes = [row.micro_batch for row in plan.rows]
    if spec.micro_batch == AUTO:
        # A second point, for the line along which all smaller micro-batches are judged.
        sizes.append(max(1, sizes[-1] // 4))
    project = paths.project_dir()
    if importlib.util.find_spec("torch") is not None:
        from orchestrator.planning import measuring

        return measuring.here(plan.spec, sizes, project), ""
    address = spec.cluster.address if spec.cluster.launcher is LauncherName.ray else None
    if address is None or importlib.util.find_spec("ray") is None:
        return None, UNMEASURED
    from orchestrator.planning import measuring

    return measuring.on_cluster(address, plan.spec, sizes, project), ELSEWHERE
