"""The DeepSpeed config of one world size: complete and valid for DeepSpeed 0.19, with nothing left to 'auto'."""

from __future__ import annotations

from typing import Any

from orchestrator.config.schema import JobSpec, OptimizerName, PrecisionName, StrategyName
from orchestrator.plans.batch import Arrangement

STAGES = {
    StrategyName.ddp: 0,
    StrategyName.zero1: 1,
    StrategyName.zero2: 2,
    StrategyName.zero3: 3,
    StrategyName.zero2_offload: 2,
    StrategyName.zero3_offload: 3,
    StrategyName.zero3_nvme: 3,
}
OFFLOADS_OPTIMIZER = (StrategyName.zero2_offload, StrategyName.zero3_offload, StrategyName.zero3_nvme)
OFFLOADS_PARAMETERS = (StrategyName.zero3_offload, StrategyName.zero3_nvme)
NVME_BUFFERS = 4
"""Through which states go to the disk and back: a group's masters, both moments of Adam and its gradients."""
NVME_GROUP = 100_000_000
"""Numbers that are brought in and stepped at once; four buffers of so many are taken of the host's memory."""
SHARES_LAYERS = (StrategyName.ddp, StrategyName.zero1, StrategyName.zero2)
"""Strategies that go together with mesh.tensor."""


def config(spec: JobSpec, arrangement: Arrangement, *, on_gpu: bool) -> dict[str, Any]:
    """What `deepspeed.initialize` is given, before the person's own DeepSpeed settings are merged on top.

    There is no scheduler in it: the training loop sets the learning rate of every step (plans/schedule.py).
    """
    planned: dict[str, Any] = {
        "train_batch_size": arrangement.batch,
        "train_micro_batch_size_per_gpu": arrangement.micro_batch,
        "gradient_accumulation_steps": arrangement.accumulation,
        "gradient_clipping": spec.job.clip or 0.0,
        "optimizer": _optimizer(spec),
        "zero_optimization": _zero(spec, on_gpu=on_gpu),
        "bf16": {"enabled": spec.precision.name is PrecisionName.bf16},
        "fp16": _fp16(spec),
        "checkpoint": {"tag_validation": "Fail", "load_universal": False, "use_node_local_storage": False},
        "wall_clock_breakdown": False,
        # null is DeepSpeed's own default and the only silent value: 0 would be divided by.
        "steps_per_print": None,
        # The throughput timer waits for the device in every step; our loop measures throughput itself.
        "timers": {"throughput": {"enabled": False}},
    }
    if STAGES[spec.strategy.name] > 0 and spec.optimizer.name is OptimizerName.sgd:
        planned["zero_allow_untested_optimizer"] = True
    if spec.strategy.name in OFFLOADS_OPTIMIZER:
        # Otherwise DeepSpeed insists on its own CPU Adam, which it compiles on first use.
        planned["zero_force_ds_cpu_optimizer"] = False
    if arrangement.mesh.tensor > 1:
        # A Task's loss needs the whole vocabulary, which DeepSpeed may otherwise leave cut up in the model's outputs.
        planned["tensor_parallel"] = {"autotp_size": arrangement.mesh.tensor, "vocab_parallel_lm_head": False}
    return planned


def _optimizer(spec: JobSpec) -> dict[str, Any]:
    chosen = spec.optimizer
    params: dict[str, Any] = {"lr": chosen.lr, "weight_decay": chosen.weight_decay}
    if chosen.name is OptimizerName.sgd:
        params |= {"momentum": chosen.momentum or 0.0, "nesterov": bool(chosen.nesterov)}
        return {"type": "SGD", "params": params}
    params |= {"betas": list(chosen.betas or (0.9, 0.999)), "eps": 1e-8 if chosen.eps is None else chosen.eps}
    # torch's own Adam; DeepSpeed's fused one is compiled on first use.
    params["torch_adam"] = True
    if chosen.name is OptimizerName.adam:
        # DeepSpeed makes Adam an AdamW unless it is told not to.
        params["adam_w_mode"] = False
    return {"type": "Adam" if chosen.name is OptimizerName.adam else "AdamW", "params": params}


def _fp16(spec: JobSpec) -> dict[str, Any]:
    if spec.precision.name is not PrecisionName.fp16:
        return {"enabled": False, "initial_scale_power": spec.precision.initial_scale_power}
    return {
        "enabled": True,
        # 0: the scale is found and adapted while training.
        "loss_scale": 0,
        "initial_scale_power": spec.precision.initial_scale_power,
        "loss_scale_window": 1000,
        "hysteresis": 2,
        "min_loss_scale": 1,
    }


def _zero(spec: JobSpec, *, on_gpu: bool) -> dict[str, Any]:
    strategy = spec.strategy
    stage = STAGES[strategy.name]
    if stage == 0:
        return {"stage": 0}
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": strategy.reduce_bucket_size,
        "overlap_comm": strategy.overlap_comm and on_gpu,
        "round_robin_gradients": False,
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": strategy.prefetch_bucket_size,
            "stage3_param_persistence_threshold": strategy.persistence_threshold,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
            "sub_group_size": 1_000_000_000,
        }
    else:
        zero |= {"allgather_partitions": True, "allgather_bucket_size": strategy.allgather_bucket_size}
    offload = {"device": "cpu", "pin_memory": strategy.offload_pin_memory and on_gpu}
    if strategy.name in OFFLOADS_OPTIMIZER:
        zero["offload_optimizer"] = dict(offload)
    if strategy.name in OFFLOADS_PARAMETERS:
        zero["offload_param"] = dict(offload)
    if strategy.name is StrategyName.zero3_nvme:
        # Parameters stay in host memory: DeepSpeed 0.19 takes all parameters on a disk for bf16.
        files = {"device": "nvme", "nvme_path": strategy.nvme_path, "buffer_count": NVME_BUFFERS}
        zero["offload_optimizer"] = {**offload, **files}
        zero["sub_group_size"] = NVME_GROUP
    return zero
