"""DeepSpeed behind the few verbs that the training loop needs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from orchestrator.config.schema import JobSpec, PrecisionName
from orchestrator.errors import PlanError
from orchestrator.plan.types import Row
from orchestrator.runtime import tensor_parallel
from orchestrator.runtime.hardware import DTYPES, forgo_compiled_ops
from orchestrator.runtime.loader import map_tensors
from orchestrator.runtime.task import Task


class Engine:
    """A model that trains under the plan's strategy. All ranks call every method, in the same order."""

    def __init__(self, task: Task, spec: JobSpec, row: Row, device: torch.device) -> None:
        import deepspeed

        forgo_compiled_ops()
        torch.manual_seed(spec.job.seed)
        model = task.build_model()
        prepare(task, model, spec)
        self._stage: int = row.deepspeed["zero_optimization"]["stage"]
        self._plain_fp32 = self._stage == 0 and spec.precision.name is PrecisionName.fp32
        self._tensor = row.mesh.tensor
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.parameters = sum(shape.numel() for shape in shapes.values())
        if self._tensor > 1:
            tensor_parallel.check_described(model, row.deepspeed)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model.to(device),
            model_parameters=parameter_groups(model, spec.optimizer.no_decay, spec.optimizer.weight_decay),
            config=row.deepspeed,
            dist_init_required=False,
            mpu=tensor_parallel.DataParallel(row.mesh) if self._tensor > 1 else None,
        )
        if self._tensor > 1:
            tensor_parallel.check_cut(self._engine.module, self._tensor, shapes)
        if spec.job.compile:
            self._engine.compile()
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

    def train(self, training: bool) -> None:
        """Switch dropout and the like on or off."""
        self._engine.train(training)

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients. Their sum over ranks and micro-batches is what `step` applies."""
        self._engine.backward(loss, scale_wrt_gas=False)
        if self._plain_fp32 and self._engine.is_gradient_accumulation_boundary():
            self._norm = self._gradient_norm()

    def _gradient_norm(self) -> float:
        if self._tensor > 1:
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

    def save(self, folder: Path, tag: str) -> None:
        """Write all training state into `folder/tag`, every rank its part."""
        (folder / tag).mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        """Take up the training state in `folder/tag`."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise FileNotFoundError(f"DeepSpeed found no checkpoint in {folder / tag}")

    def whole_state(self) -> dict[str, Tensor]:
        """All weights and buffers in full, on the CPU, weights in fp32 where the optimizer holds them so."""
        module = self._engine.module
        parameters = dict(module.named_parameters(remove_duplicate=False))
        return {
            name: self._whole(parameters[name]) if name in parameters else value.detach().cpu().clone()
            for name, value in module.state_dict().items()
        }

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        return tensor_parallel.gather(parameter, self._unpartitioned(parameter)).float().cpu().clone()

    def _unpartitioned(self, parameter: nn.Parameter) -> Tensor:
        """A parameter as it is without ZeRO, from the optimizer's fp32 copy if there is one."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.requires_grad and not self._plain_fp32:
            master: Tensor | None = safe_get_full_fp32_param(parameter)
            if master is not None:
                return master.detach()
        if self._stage == 3:
            with GatheredParameters([parameter]):
                return parameter.detach().clone()
        return parameter.detach()

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

    model.register_forward_pre_hook(narrow, with_kwargs=True)
    model.register_forward_hook(widen)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
