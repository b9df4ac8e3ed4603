"""The memory a plan needs: the model is measured here, on the machine that plans."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from orchestrator import paths

if TYPE_CHECKING:
    from orchestrator.config.schema import JobSpec
    from orchestrator.plan.inventory import Inventory
    from orchestrator.plan.types import Plan


def with_memory(plan: Plan, spec: JobSpec, inventory: Inventory) -> Plan:
    """The plan with the memory its workers need; unchanged where there is no torch to measure with."""
    if importlib.util.find_spec("torch") is None:
        return plan
    from orchestrator.config import targets
    from orchestrator.plan import budget
    from orchestrator.profile import cache
    from orchestrator.runtime.engine import prepare

    project = paths.project_dir()
    task = targets.bind(plan.spec, project=project).task()
    sizes = [row.micro_batch for row in plan.rows]
    return budget.with_memory(plan, spec, cache.profile(task, spec, sizes, prepare, project), inventory)
