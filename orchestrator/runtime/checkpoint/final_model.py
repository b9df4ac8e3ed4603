"""The final model as people take it along: weights as safetensors, and a description to rebuild and serve it by."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator import paths
from orchestrator.foundation.formats import FORMAT
from orchestrator.foundation.storage import Store
from orchestrator.plans.types import Plan
from orchestrator.runtime.checkpoint.whole_model import WholeModel
from orchestrator.runtime.worker.data.loader import make_batch, to_device
from orchestrator.runtime.worker.engine import Engine
from orchestrator.task import Dataset, Task


def describe_model(task: Task, engine: Engine, dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """What goes into the model and comes out, from one real item, and how items are prepared. All ranks take part."""
    batch = to_device(make_batch(task, dataset, [0], pin=False), device)
    inputs = task.inputs(batch)
    with engine.evaluating():
        outputs = engine.model(**inputs) if isinstance(inputs, dict) else engine.model(*_as_tuple(inputs))
    described = {"inputs": _tensor_specs(inputs, "input"), "outputs": _tensor_specs(outputs, "output")}
    preprocessing = getattr(dataset, "preprocessing", None)
    return described | ({"preprocessing": preprocessing} if preprocessing else {})


def save_model(store: Store, model: WholeModel, plan: Plan, description: dict[str, Any]) -> None:
    """Write the model's folder into run storage."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-model-") as scratch:
        folder = Path(scratch) / paths.MODEL
        folder.mkdir()
        model.write(folder / "model.safetensors")
        record = {"format": FORMAT, "task": plan.task, "spec": plan.spec, **description}
        (folder / "model.json").write_text(json.dumps(record, indent=2) + "\n")
        store.upload(folder, paths.MODEL)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _tensor_specs(value: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        named: Iterable[tuple[str, Any]] = value.items()
    else:
        parts = _as_tuple(value)
        named = [(name if len(parts) == 1 else f"{name}_{k}", part) for k, part in enumerate(parts)]
    return [
        {"name": key, "dtype": str(part.dtype).removeprefix("torch."), "shape": [-1, *part.shape[1:]]}
        for key, part in named
        if isinstance(part, Tensor)
    ]
