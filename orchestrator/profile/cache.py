"""Profiles found again by all that they depend on: making one takes seconds, reading one does not."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from orchestrator.config.schema import JobSpec
from orchestrator.plans.memory.profile_types import ModelProfile
from orchestrator.profile import profile_files
from orchestrator.profile.model import Prepare, profile_model

SHIPPED = "orchestrator.jobs"
"""The package of the tasks we ship."""


def profile(task: Any, spec: JobSpec, micro_batches: Iterable[int], prepare: Prepare, project: Path) -> ModelProfile:
    """The profile of a task's model, from the shelf when nothing that it depends on has changed."""
    sizes = sorted(set(micro_batches))
    name = fingerprint(task, spec, sizes, project)
    known = profile_files.read(name)
    if known is None:
        known = profile_model(task, spec, sizes, prepare)
        profile_files.remember(name, known)
    return known


def fingerprint(task: Any, spec: JobSpec, micro_batches: list[int], project: Path) -> str:
    """Equal for equal models, data, code, numbers and versions. The code must have been imported before."""
    parts = {
        "task": spec.job.task,
        "model": spec.model,
        "data": spec.data,
        "precision": spec.precision.name.value,
        "checkpointing": spec.job.activation_checkpointing,
        "micro_batches": micro_batches,
        "torch": torch.__version__,
    }
    return profile_files.fingerprint(parts, _sources(task, project))


def _sources(task: Any, project: Path) -> list[Path]:
    """Files of all imported modules that the profile may depend on: the task's, the project's, and this room's own."""
    own = Path(__file__).parent
    task_module = type(task).__module__
    # Of our own package only the tasks we ship: the rest of it decides nothing that a profile shows.
    package = SHIPPED if task_module.startswith(f"{SHIPPED}.") else task_module.partition(".")[0]
    found = set()
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        in_project = file.is_relative_to(project) and "site-packages" not in file.parts
        theirs = f"{name}.".startswith(f"{package}.") or (in_project and not name.startswith("orchestrator"))
        if file.suffix == ".py" and (theirs or file.is_relative_to(own)):
            found.add(file)
    return sorted(found)
