"""A model's profile: its parameters, and what a forward and backward pass hold, without allocating either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from orchestrator.config.schema import JobSpec, PrecisionName
from orchestrator.plans.memory.profile_types import Activations, ModelProfile
from orchestrator.profile import ctc, layers
from orchestrator.profile.trace import PeakMemory

T = TypeVar("T")
DTYPES = {PrecisionName.fp32: torch.float32, PrecisionName.bf16: torch.bfloat16, PrecisionName.fp16: torch.float16}


class Trainable(Protocol):
    """The part of a Task (orchestrator.task) that a profile is made of."""

    def build_model(self) -> nn.Module: ...

    def dataset(self, split: str) -> Any: ...

    def collate(self, items: Sequence[Any]) -> Any: ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor: ...


Prepare = Callable[[Any, nn.Module, JobSpec], None]
"""What is done to a model before it trains: checkpointing of activations, casts at its borders."""


def profile_model(task: Trainable, spec: JobSpec, micro_batches: Iterable[int], prepare: Prepare) -> ModelProfile:
    """Profile a task's model for micro-batches of these sizes.

    Only one item of the training split is really read. What the person's code cannot do with fake tensors is left
    unknown, with the reason in the notes; of a model that cannot be built, even the parameters.
    """
    notes: list[str] = []
    ctc.teach_shapes()
    # Tensors made at import time, such as class weights, may take part.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = _or_note(lambda: _build(task, spec, mode, prepare), notes)
    if model is None:
        bare = _or_note(lambda: _bare(task), notes)
        return _profile(bare, (), notes) if bare else ModelProfile(parameters=(), buffer_bytes=0, notes=tuple(notes))
    # The two ends of a range: what lies between is on the line through them.
    sizes = sorted(set(micro_batches))
    ends = sorted({sizes[0], sizes[-1]})
    points = _or_note(lambda: tuple(_measure(task, model, mode, size) for size in ends), notes)
    return _profile(model, points or (), notes)


def _or_note(attempt: Callable[[], T], notes: list[str]) -> T | None:
    """The attempt's outcome, or None and a note in place of another: the person's code may fail in any way."""
    try:
        return attempt()
    except Exception as error:  # noqa: BLE001 - code not written for this; the plan is good without
        reason = next(iter(str(error).strip().splitlines()), "")
        notes[:] = [f"The model does not run on fake tensors, which measure it ({type(error).__name__}: {reason})."]
        return None


def _build(task: Trainable, spec: JobSpec, mode: FakeTensorMode, prepare: Prepare) -> nn.Module:
    """The model as it trains, in its compute format, with gradients in place as they are after a first micro-batch."""
    with mode:
        model = task.build_model()
        for parameter in model.parameters():
            parameter.data = parameter.data.to(DTYPES[spec.precision.name])
        prepare(task, model, spec)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        return model.train()


def _first_item(task: Trainable) -> Any:
    dataset = task.dataset("train")
    if dataset is None or len(dataset) == 0:
        raise ValueError("the training split is empty")
    return dataset[0]


def _bare(task: Trainable) -> nn.Module:
    """The model with shapes alone: enough to count its parameters."""
    with torch.device("meta"):
        return task.build_model()


def _measure(task: Trainable, model: nn.Module, mode: FakeTensorMode, micro_batch: int) -> Activations:
    """One forward and backward pass over a batch of the same item many times."""
    real = task.collate([_first_item(task)] * micro_batch)
    with mode:
        batch = tree_map_only(Tensor, mode.from_tensor, real)
        inputs = _tensors(batch)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        with PeakMemory([*model.parameters(), *model.buffers(), *gradients, *inputs]) as memory:
            torch.autograd.backward(task.loss(model, batch))
    return Activations(micro_batch=micro_batch, bytes=memory.peak, batch_bytes=sum(_size(tensor) for tensor in inputs))


def _tensors(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, batch)
    return found


def _profile(model: nn.Module, points: tuple[Activations, ...], notes: list[str]) -> ModelProfile:
    return ModelProfile(
        parameters=layers.parameters(model),
        buffer_bytes=sum(_size(buffer) for buffer in model.buffers()),
        activations=points,
        notes=tuple(notes),
        tensor_plan=layers.tensor_plan(model),
        kv_heads=layers.kv_heads(model),
    )


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
