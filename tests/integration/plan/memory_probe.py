"""What DeepSpeed's ranks really hold: an entry for launchers that trains one window per plan and counts storages."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from orchestrator.config.load import spec_from_dict
from orchestrator.config.targets import targets
from orchestrator.foundation.storage import open_store
from orchestrator.jobs.regression import Mlp, Regression
from orchestrator.plans.types import Plan
from orchestrator.runtime.worker.context import WorkerContext
from orchestrator.runtime.worker.engine import Engine
from orchestrator.task import Task


class Odd(nn.Module):
    """Sizes that divide by nothing, frozen parameters, biases for a group of their own, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.first = nn.Linear(5, 13)
        self.norm = nn.LayerNorm(13)
        self.second = nn.Linear(13, 11)
        self.head = nn.Linear(11, 1)
        self.table.weight.requires_grad = False
        self.norm.bias.requires_grad = False
        self.register_buffer("scale", torch.ones(3))

    def forward(self, numbers: Tensor) -> Tensor:
        hidden = self.norm(self.first(self.table(numbers)))
        return self.head(torch.relu(self.second(hidden))).squeeze(-1) * self.scale[0]


class Shared(nn.Module):
    """Layers that two workers share: by outputs, by inputs, and with the whole output; none of them divides evenly."""

    _tp_plan = {"up": "colwise", "down": "rowwise", "head": "colwise_gather_output"}

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.up = nn.Linear(5, 13)
        self.down = nn.Linear(13, 11)
        self.norm = nn.LayerNorm(11)
        self.head = nn.Linear(11, 3, bias=False)
        self.norm.bias.requires_grad = False
        self.up.bias.requires_grad = False

    def forward(self, numbers: Tensor) -> Tensor:
        hidden = self.norm(self.down(torch.relu(self.up(self.table(numbers)))))
        return self.head(hidden).sum(-1)


class Heavy(nn.Module):
    """Weights large enough for a disk, of which one fills whole blocks there, and others that are too small."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 100)
        self.layers = nn.Sequential(nn.Linear(100, 1023), nn.Linear(1023, 1021), nn.Linear(1021, 1024))

    def forward(self, numbers: Tensor) -> Tensor:
        return self.layers(self.table(numbers)).mean(-1)


class Sums(Task):
    def __init__(self, model: Callable[[], nn.Module] = Odd) -> None:
        super().__init__(model, lambda split: Numbers())

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        numbers, wanted = batch
        return (model(numbers) - wanted).square().sum()


class Numbers:
    """Seven of them, each to be turned into 1."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(index), torch.tensor(1.0)


def measure(ctx: WorkerContext) -> None:
    """Count for each plan in turn, all in one process group."""
    plans = {name: Plan.from_dict(plan) for name, plan in ctx.launch.plan["plans"].items()}
    counted = {name: _count(plan, task_of(plan)) for name, plan in plans.items()}
    open_store(ctx.launch.root).write(f"held-{ctx.rank}.json", json.dumps(counted))


def task_of(plan: Plan) -> Task:
    """The Task that a plan names; without a model in the plan, one of those above by the job's name."""
    if plan.spec["model"]:
        return targets.bind(plan.spec).task()
    return Sums({"memory": Odd, "shared": Shared, "heavy": Heavy}[plan.job])


def _count(plan: Plan, task: Task) -> dict[str, int]:
    spec, row, data = spec_from_dict(plan.spec), plan.preferred, task.dataset("train")
    assert data is not None
    before = _bytes(_live())
    engine = Engine(task, spec, row, torch.device("cpu"))
    engine.train(True)
    for _ in range(2):
        engine.set_lr(0.01)
        for number in range(row.accumulation):
            batch = task.collate([data[index % len(data)] for index in range(row.micro_batch)])
            loss = task.loss(engine.model, batch) / row.batch
            turning = _bytes(_parameters(engine))
            engine.backward(loss)
            if number < row.accumulation - 1:
                engine.step()
        gradients = _bytes(_gradients(engine))
        engine.step()
    parameters, optimizer = _bytes(_parameters(engine)), _bytes(_states(engine))
    everything = _bytes(_live()) - before
    engine.close()
    del engine
    return {
        "parameters": parameters,
        "gradients": gradients,
        "optimizer": optimizer,
        "live": everything,
        "turning": turning,
    }


def measure_peaks(ctx: WorkerContext) -> None:
    """The fullest moment of a whole window, by torch's own record of what its CPU allocator gives and takes."""
    peaks = {name: _peak(Plan.from_dict(plan)) for name, plan in ctx.launch.plan["plans"].items()}
    open_store(ctx.launch.root).write(f"held-{ctx.rank}.json", json.dumps(peaks))


def _peak(plan: Plan) -> int:
    spec, row, task = spec_from_dict(plan.spec), plan.preferred, wide_task()
    # What an engine before this one has left may still be let go of, and must not be taken off then.
    left = [weakref.ref(tensor) for tensor in _live()]
    engine = Engine(task, spec, row, torch.device("cpu"))
    engine.train(True)

    def window() -> None:
        for _ in range(row.accumulation):
            batch = task.collate([task.dataset("train")[0]] * row.micro_batch)
            engine.backward(task.loss(engine.model, batch) / row.batch)
            engine.step()

    # Optimizer states come with the first step, ZeRO 3 knows what to keep from the second window on.
    window()
    window()
    held = _storages(_live())
    for ref in left:
        if (tensor := ref()) is not None:
            held.pop(tensor.untyped_storage().data_ptr(), None)
    peak = sum(held.values()) + most_allocated(window, held)
    engine.close()
    return peak


def most_allocated(work: Callable[[], None], held: Mapping[int, int] | None = None) -> int:
    """Most bytes at one time that some work allocates beyond what was `held` before, by address.

    Memory that is let go of without being either is of earlier work: communication keeps its last buffers for a while.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    sizes = dict(held or {})
    live = peak = 0
    # Threads of the backward pass and of communication have theirs; only in the order of time they add up.
    tree = profiled.profiler.kineto_results.experimental_event_tree()
    for event in sorted(_allocations(tree), key=lambda event: event.start_time_ns):
        pointer, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            sizes[pointer] = size
            live += size
        else:
            live -= sizes.pop(pointer, 0)
        peak = max(peak, live)
    return peak


def _allocations(events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event
        yield from _allocations(event.children)


def wide_task() -> Task:
    """A model whose activations and states weigh about the same."""
    items = [(torch.zeros(100), torch.tensor(0.0))]
    return Regression(partial(Mlp, inputs=100, width=300, depth=5), lambda split: items)


def _parameters(engine: Engine) -> Iterator[Any]:
    optimizer = engine._optimizer
    yield [(parameter, getattr(parameter, "ds_tensor", None)) for parameter in engine.model.parameters()]
    yield getattr(optimizer, "bit16_groups_flat", None)
    yield getattr(optimizer, "lp_param_buffer", None)
    yield getattr(optimizer, "param_groups_fp16_flat_cpu_memory", None)


def _gradients(engine: Engine) -> Iterator[Any]:
    optimizer = engine._optimizer
    yield [(parameter.grad, getattr(parameter, "grad_accum", None)) for parameter in engine.model.parameters()]
    yield [tensor.grad for tensor in _tensors(_masters(engine))]
    for name in ("averaged_gradients", "all_grad_tensors", "accumulated_grads_in_cpu", "grad_partitions_flat_buffer"):
        yield getattr(optimizer, name, None)
    swapper = getattr(optimizer, "optimizer_swapper", None)
    yield [info.unswapped_gradients for info in swapper.swap_params_info.values()] if swapper else None


def _masters(engine: Engine) -> list[Any]:
    names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups")
    return [getattr(engine._optimizer, name, None) for name in names]


def _states(engine: Engine) -> Iterator[Any]:
    yield _masters(engine)
    yield [list(state.values()) for state in getattr(engine._optimizer, "optimizer", engine._optimizer).state.values()]


def _live() -> list[Tensor]:
    """Every tensor that Python can reach."""
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


def _bytes(nest: Iterable[Any]) -> int:
    """Bytes of the storages behind all tensors in a nest of containers, each storage once."""
    return sum(_storages(nest).values())


def _storages(nest: Iterable[Any]) -> dict[int, int]:
    """Their sizes, by address."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(nest)}


def _tensors(nest: Any) -> Iterator[Tensor]:
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, dict):
        yield from _tensors(list(nest.values()))
    elif nest is not None and not isinstance(nest, str | int | float):
        for inner in nest:
            yield from _tensors(inner)
