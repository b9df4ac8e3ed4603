"""Layers cut up between workers (mesh.tensor) by DeepSpeed's AutoTP: what it takes, and how they become whole again.

Neighbouring ranks hold the parts of one copy of the model: with mesh.tensor=2, ranks 0 and 1, then 2 and 3. They are
given the same batches and the same random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from orchestrator.errors import PlanError
from orchestrator.plans.types import MeshShape
from orchestrator.runtime.checkpoint.shards import Box


class DataParallel:
    """Tells DeepSpeed over how many workers a batch is spread; it takes that for the world size otherwise."""

    def __init__(self, mesh: MeshShape) -> None:
        self._size = mesh.data

    def get_data_parallel_world_size(self) -> int:
        """DeepSpeed's name for it."""
        return self._size


def check_described(model: nn.Module, deepspeed: Mapping[str, Any]) -> None:
    """Refuse a model of which nobody says how to cut it: DeepSpeed would guess by the names of layers."""
    section = deepspeed["tensor_parallel"]
    if section.get("partition_config") or section.get("preset_model"):
        return
    plans = (getattr(model, "_tp_plan", None), getattr(getattr(model, "config", None), "base_model_tp_plan", None))
    if any(isinstance(plan, dict) and plan for plan in plans):
        return
    raise PlanError(
        f"mesh.tensor={section['autotp_size']} cannot share out {type(model).__name__}: it does not say how its layers "
        "are to be cut.",
        'Give the class a _tp_plan such as {"blocks.*.up": "colwise", "blocks.*.down": "rowwise"} (jobs/causal_lm.py '
        "has one), or DeepSpeed a tensor_parallel.partition_config (strategy.deepspeed_file), or set mesh.tensor=1.",
    )


def check_cut(model: nn.Module, tensor: int, shapes: Mapping[str, torch.Size]) -> None:
    """Refuse what DeepSpeed left whole, and what could not be put together again. `shapes`: those before."""
    cut = {name: parameter for name, parameter in model.named_parameters() if parameter.shape != shapes[name]}
    if not cut:
        raise PlanError(
            f"mesh.tensor={tensor} found nothing to share in {type(model).__name__}: its _tp_plan, or the "
            "partition_config in its place, names no layer there is.",
            f"There are: {', '.join(_layers(shapes)[:8])} ...",
        )
    for name, parameter in cut.items():
        if not is_cut(parameter):
            raise PlanError(
                f"mesh.tensor={tensor} cannot share {name}: its parts could not be put together for the final model.",
                f"Leave {name.removesuffix('.weight')} out of _tp_plan.",
            )


def is_cut(parameter: nn.Parameter) -> bool:
    """Whether this worker holds only a part of a parameter."""
    return hasattr(parameter, "gather_params")


def boxes(parameters: Mapping[str, nn.Parameter], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Box]:
    """Which part of each cut parameter this worker holds. All workers take part.

    DeepSpeed's layers know their cuts and put numbers together; where ours come to lie says which part is ours.
    """
    found = {}
    for name, parameter in parameters.items():
        if is_cut(parameter):
            box = _box(parameter)
            if box is None:
                raise PlanError(
                    f"mesh.tensor cannot share {name}: its parts are not slices along one dimension.",
                    f"Leave {name.removesuffix('.weight')} out of _tp_plan.",
                )
            found[name] = box
    return found


def _box(parameter: nn.Parameter) -> Box | None:
    own = parameter.data
    numbers = torch.arange(own.numel(), dtype=torch.float64, device=own.device).view(own.shape)
    numbers += dist.get_rank() * 2**40
    parameter.data = numbers
    try:
        parameter.gather_params([parameter])  # type: ignore[attr-defined]
        whole = parameter.data
    finally:
        parameter.data = own
    dim = next((dim for dim in range(own.dim()) if own.shape[dim] != whole.shape[dim]), 0)
    place = (whole == numbers.flatten()[0]).nonzero()
    if not len(place):
        return None
    box = Box(dim=dim, start=int(place[0][dim]), size=own.shape[dim])
    fits = box.start + box.size <= whole.shape[dim] and torch.equal(box.of(whole), numbers)
    return box if fits else None


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Norm of all gradients, of which each worker has its part of some and all of the others."""
    from deepspeed.utils import groups

    mine = [parameter for parameter in parameters if parameter.grad is not None]
    parts, wholes = ([p.grad for p in mine if is_cut(p) is cut and p.grad is not None] for cut in (True, False))
    squared = nn.utils.get_total_norm(parts) ** 2
    dist.all_reduce(squared, group=groups.get_tensor_model_parallel_group())
    return float((squared + nn.utils.get_total_norm(wholes) ** 2).sqrt())


def _layers(shapes: Mapping[str, torch.Size]) -> list[str]:
    return [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2]
