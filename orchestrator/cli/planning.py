"""From a command line to a plan: the steps that `plan` and `train` share."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from typing import TYPE_CHECKING

from orchestrator import paths
from orchestrator.cli.options import ConfigArgs

if TYPE_CHECKING:
    from orchestrator.config.load import Loaded
    from orchestrator.plan.types import Plan

UNCHECKED = "The code the config names was not checked: torch is not installed here."


def make_plan(config: ConfigArgs, *, check_targets: bool = True) -> Plan:
    """Compose the config, look at the machine or cluster, and plan. With `check_targets` the named code is imported."""
    from orchestrator.cluster import inventory
    from orchestrator.plan.make import make

    loaded = config.load()
    storage = loaded.spec.storage
    plan = make(
        loaded.resolved,
        loaded.spec,
        inventory.for_spec(loaded.spec),
        environment=inventory.versions(),
        shared_storage=storage.shared or _shared(paths.absolute(storage.path)),
        project=paths.project_dir(),
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
    )
    return _checked(plan, loaded) if check_targets else plan


def _shared(path: str) -> bool:
    """Whether every node sees a storage path, as far as its form or its file system tells."""
    from orchestrator.cluster import inventory

    return paths.is_url(path) or inventory.is_shared_filesystem(path)


def _checked(plan: Plan, loaded: Loaded) -> Plan:
    """Refuse a Task, model or data that does not exist or does not take the config's arguments."""
    if importlib.util.find_spec("torch") is None:
        return dataclasses.replace(plan, notes=(*plan.notes, UNCHECKED))
    from orchestrator.config import targets

    targets.bind(loaded.resolved, project=paths.project_dir(), where=loaded.origins.where)
    return plan
