"""From a command line to a plan: the steps that `plan` and `train` share."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import paths
from orchestrator.config.request import ConfigArgs

if TYPE_CHECKING:
    from orchestrator.config.schema import JobSpec
    from orchestrator.plans.placement.inventory import Inventory
    from orchestrator.plans.types import Plan


def make_plan(config: ConfigArgs, *, check_code: bool = True, cluster_file: str | None = None) -> Plan:
    """Compose the config, look at the machine or cluster, and plan. With `check_code` the named code is imported.

    `cluster_file`: plan for the nodes that this cluster.yaml describes, instead of asking.
    """
    from orchestrator.cluster.nodes import inventory
    from orchestrator.planning.sizing import profile_of
    from orchestrator.plans import script
    from orchestrator.plans.make import check, make
    from orchestrator.plans.memory import auto, budget

    loaded = config.load()
    storage = loaded.spec.storage
    shared = storage.shared or _shared(paths.absolute(storage.path))
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    # First of all, since asking a cluster takes seconds.
    check(loaded.spec, shared_storage=shared, tracking_uri=tracking_uri)
    there = _described(loaded.spec, cluster_file) if cluster_file else inventory.for_spec(loaded.spec)

    def plan_for(resolved: dict[str, Any], spec: JobSpec) -> Plan:
        return make(
            resolved,
            spec,
            there,
            environment=inventory.versions(),
            shared_storage=shared,
            project=paths.project_dir(),
            tracking_uri=tracking_uri,
        )

    if loaded.spec.script is not None:
        script.check(loaded.spec, paths.project_dir())
        return plan_for(loaded.resolved, loaded.spec)
    left_open = auto.is_wanted(loaded.spec)
    asked = (loaded.resolved, loaded.spec)
    plan = auto.start(*asked, plan_for) if left_open else plan_for(*asked)
    if not check_code:
        return plan
    plan = check_targets(plan, loaded.origins.where)
    profile, told = profile_of(plan, loaded.spec)

    def with_memory(plan: Plan, spec: JobSpec) -> Plan:
        plan = dataclasses.replace(plan, notes=(*plan.notes, told)) if told else plan
        return budget.with_memory(plan, spec, profile, there) if profile else plan

    if not left_open:
        return with_memory(plan, loaded.spec)
    return auto.choose(loaded.resolved, loaded.spec, lambda resolved, spec: with_memory(plan_for(resolved, spec), spec))


def _described(spec: JobSpec, file: str) -> Inventory:
    """The nodes of a cluster.yaml, for a spec that will run on a cluster."""
    from orchestrator.cluster.nodes import cluster_file
    from orchestrator.errors import PlanError

    if spec.cluster.address is None:
        raise PlanError(
            f"--cluster {file} describes a Ray cluster, but cluster.address=null trains on this machine.",
            "Set cluster=existing (or cluster.address=host:6379), or leave out --cluster.",
        )
    return cluster_file.of_file(Path(file))


def _shared(path: str) -> bool:
    """Whether every node sees a storage path, as far as its form or its file system tells."""
    from orchestrator.cluster.nodes import inventory

    return paths.is_url(path) or inventory.is_shared_filesystem(path)


def check_targets(plan: Plan, where: Callable[[str], str] = lambda key: "") -> Plan:
    """Refuse a Task, model or data that does not exist or does not take the arguments given, where there is torch."""
    if importlib.util.find_spec("torch") is None or plan.spec.get("script"):
        return plan
    from orchestrator.config.targets import targets

    targets.bind(plan.spec, project=paths.project_dir(), where=where)
    return plan
