"""DeepSpeed behind the few verbs that the training loop needs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from orchestrator.config.schema import JobSpec, PrecisionName
from orchestrator.errors import PlanError
from orchestrator.plans.types import Row
from orchestrator.runtime.checkpoint import tensor_parallel
from orchestrator.runtime.checkpoint.checkpoint import Snapshot
from orchestrator.runtime.checkpoint.shards import ShardReader
from orchestrator.runtime.checkpoint.states import States
from orchestrator.runtime.worker.data.loader import map_tensors
from orchestrator.runtime.worker.hardware import DTYPES, forgo_compiled_ops
from orchestrator.task import Task


class Engine:
    """A model that trains under the plan's strategy. All ranks call every method, in the same order."""

    def __init__(self, task: Task, spec: JobSpec, row: Row, device: torch.device) -> None:
        from orchestrator.runtime.fast_start.lean_deepspeed import deepspeed

        forgo_compiled_ops()
        torch.manual_seed(spec.job.seed)
        model = task.build_model()
        prepare(task, model, spec)
        self._stage: int = row.deepspeed["zero_optimization"]["stage"]
        self._plain_fp32 = self._stage == 0 and spec.precision.name is PrecisionName.fp32
        self._mesh = row.mesh
        self._strategy, self._precision = spec.strategy.name.value, spec.precision.name.value
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.parameters = sum(shape.numel() for shape in shapes.values())
        if self._mesh.tensor > 1:
            tensor_parallel.check_described(model, row.deepspeed)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model.to(device),
            model_parameters=parameter_groups(model, spec.optimizer.no_decay, spec.optimizer.weight_decay),
            config=row.deepspeed,
            dist_init_required=False,
            mpu=tensor_parallel.DataParallel(row.mesh) if self._mesh.tensor > 1 else None,
        )
        if self._mesh.tensor > 1:
            tensor_parallel.check_cut(self._engine.module, self._mesh.tensor, shapes)
        if spec.job.compile:
            self._engine.compile()
        self._states = States(
            self._engine,
            stage=self._stage,
            mesh=row.mesh,
            rank=torch.distributed.get_rank(),
            shapes={name: tuple(shape) for name, shape in shapes.items()},
        )
        self._norm = 0.0

    @property
    def model(self) -> nn.Module:
        """What a Task calls: forward passes of it are DeepSpeed's."""
        model: nn.Module = self._engine
        return model

    def set_lr(self, lr: float) -> None:
        """Learning rate of the next step, in all groups."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients. Their sum over ranks and micro-batches is what `step` applies."""
        self._engine.backward(loss, scale_wrt_gas=False)
        if self._plain_fp32 and self._engine.is_gradient_accumulation_boundary():
            self._norm = self._gradient_norm()

    def _gradient_norm(self) -> float:
        if self._mesh.tensor > 1:
            return tensor_parallel.gradient_norm(self._engine.module.parameters())
        gradients = [parameter.grad for parameter in self._engine.module.parameters() if parameter.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def step(self) -> None:
        """Count a micro-batch; the last one of a window updates the weights."""
        self._engine.step()

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradients before clipping."""
        norm = self._norm if self._plain_fp32 else self._engine.get_global_grad_norm()
        return float(norm or 0.0)

    def snapshot(self) -> Snapshot:
        """All training state that this rank is to save, as views of live tensors."""
        about = {
            "mesh": dataclasses.asdict(self._mesh),
            "strategy": self._strategy,
            "precision": self._precision,
            "scaler": self._states.scaler(),
            "aliases": self._states.aliases,
        }
        return Snapshot(pieces=self._states.pieces(), scalars=self._states.scalars(), about=about)

    def restore(self, reader: ShardReader) -> None:
        """Take up the training state of a checkpoint, of any strategy and number of workers."""
        self._states.install(reader)

    def restore_model(self, reader: ShardReader) -> None:
        """Take up a checkpoint's weights and buffers alone."""
        self._states.install(reader, optimizer=False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without gradients or dropout, and with running statistics that are the mean over all workers."""
        self.train(False)
        own = [buffer.clone() for buffer in self._statistics]
        try:
            with torch.no_grad():
                self._average_statistics()
                yield
        finally:
            for buffer, value in zip(self._statistics, own, strict=True):
                buffer.copy_(value)
            self.train(True)

    def train(self, training: bool) -> None:
        """Switch dropout and the like on or off, and what a Task sees as `model.training`."""
        self._engine.train(training)
        self._engine.training = training

    @functools.cached_property
    def _statistics(self) -> list[Tensor]:
        """Buffers that differ between workers, since each sees other samples."""
        if self._mesh.data == 1:
            return []
        return [buffer for buffer in self._engine.module.buffers() if buffer.is_floating_point()]

    def _average_statistics(self) -> None:
        if self._statistics:
            total = torch.cat([buffer.detach().double().view(-1) for buffer in self._statistics])
            torch.distributed.all_reduce(total)
            mean = total / torch.distributed.get_world_size()
            done = 0
            for buffer in self._statistics:
                buffer.copy_(mean[done : done + buffer.numel()].view(buffer.shape))
                done += buffer.numel()

    def close(self) -> None:
        """Let go of hooks and buffers."""
        self._engine.destroy()


def prepare(task: Task, model: nn.Module, spec: JobSpec) -> None:
    """What is done to a model before it trains, here and where its memory is planned."""
    if spec.job.activation_checkpointing:
        _recompute_activations(task, model)
    _cross_precision(model, spec.precision.name)


def parameter_groups(model: nn.Module, no_decay: list[str], weight_decay: float) -> list[dict[str, Any]]:
    """One group, or two when some parameters are exempt from weight decay. Frozen parameters are in none."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    exempt = [parameter for name, parameter in trainable if any(part in name for part in no_decay)]
    decayed = [parameter for name, parameter in trainable if not any(part in name for part in no_decay)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _recompute_activations(task: Task, model: nn.Module) -> None:
    blocks = task.blocks(model)
    if not blocks:
        raise PlanError(
            f"job.activation_checkpointing=true, but {type(task).__name__}.blocks(model) names no modules.",
            "Keep the model's repeated parts in an nn.ModuleList, or override blocks().",
        )
    for block in blocks:
        block.forward = functools.partial(recompute, block.forward, use_reentrant=False)


def _cross_precision(model: nn.Module, precision: PrecisionName) -> None:
    """Give a half-precision model its inputs in its own format, and hand its outputs on in fp32."""
    if precision is PrecisionName.fp32:
        return
    dtype = DTYPES[precision]

    def narrow(_: nn.Module, args: Any, kwargs: Any) -> Any:
        cast = functools.partial(_cast, dtype=dtype)
        return map_tensors(args, cast), map_tensors(kwargs, cast)

    def widen(_: nn.Module, args: Any, output: Any) -> Any:
        return map_tensors(output, functools.partial(_cast, dtype=torch.float32))

    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.forward = functools.partial(_batch_norm, module)  # type: ignore[method-assign]
    model.register_forward_pre_hook(narrow, with_kwargs=True)
    model.register_forward_hook(widen)


def _batch_norm(module: nn.modules.batchnorm._BatchNorm, values: Tensor) -> Tensor:
    """Batch norm over half-precision values with weights and running statistics in fp32.

    DeepSpeed narrows the weights and leaves the statistics, which torch does not take together; and in half precision
    the statistics would soon stop to move.
    """
    count = module.num_batches_tracked
    if module.training and count is not None:
        count.add_(1)
    momentum = module.momentum if module.momentum is not None else 1 / max(1.0, float(count or 0))
    return nn.functional.batch_norm(
        values,
        module.running_mean,
        module.running_var,
        module.weight.float() if module.affine else None,
        module.bias.float() if module.affine else None,
        module.training or module.running_mean is None,
        momentum,
        module.eps,
    )


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
