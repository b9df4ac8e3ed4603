"""Profiles on disk, found again by all that they depend on: making one takes seconds, reading one does not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from orchestrator.config.schema import JobSpec
from orchestrator.plan.profile_types import ModelProfile
from orchestrator.profile.model import Prepare, profile_model
from orchestrator.storage import write_atomically

KEPT = 128
"""The newest so many profiles stay."""


def profile(task: Any, spec: JobSpec, micro_batches: Iterable[int], prepare: Prepare, project: Path) -> ModelProfile:
    """The profile of a task's model, from the cache when nothing that it depends on has changed."""
    sizes = sorted(set(micro_batches))
    file = folder() / f"{fingerprint(task, spec, sizes, project)}.json"
    known = _read(file)
    if known is None:
        known = profile_model(task, spec, sizes, prepare)
        # What could not be measured may be another time, when the data is within reach.
        if known.activations:
            _remember(file, known)
    return known


def folder() -> Path:
    """Where profiles lie."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "orchestrator" / "profiles"


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
        "sources": [hashlib.sha256(file.read_bytes()).hexdigest() for file in _sources(task, project)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _sources(task: Any, project: Path) -> list[Path]:
    """Files of all imported modules that the profile may depend on: the task's, the project's, and this room's own."""
    own = Path(__file__).parent
    task_module = type(task).__module__
    package = task_module.partition(".")[0]
    found = set()
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        in_project = file.is_relative_to(project) and "site-packages" not in file.parts
        theirs = name.partition(".")[0] == package or (in_project and not name.startswith("orchestrator"))
        if file.suffix == ".py" and (theirs or file.is_relative_to(own)):
            found.add(file)
    return sorted(found)


def _read(file: Path) -> ModelProfile | None:
    try:
        return ModelProfile.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None


def _remember(file: Path, known: ModelProfile) -> None:
    # A home that cannot be written makes the next plan slower, and is no reason to fail.
    with contextlib.suppress(OSError):
        write_atomically(file, json.dumps(known.to_dict()).encode())
        _prune(file.parent)


def _prune(where: Path) -> None:
    """Forget the oldest; another process may be doing the same."""
    files = [(file.stat().st_mtime, file) for file in where.glob("*.json")]
    for _, file in sorted(files)[:-KEPT]:
        file.unlink(missing_ok=True)
