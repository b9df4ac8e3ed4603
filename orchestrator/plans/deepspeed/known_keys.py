"""The keys that DeepSpeed 0.19 knows, and which of them a config group owns.

Copied rather than imported, because planning must not load DeepSpeed;
tests/integration/train/test_deepspeed_config.py holds the lists against the installed version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TOP_LEVEL = (
    "activation_checkpointing",
    "aio",
    "autotuning",
    "bf16",
    "checkpoint",
    "comet",
    "comms_logger",
    "communication_data_type",
    "compile",
    "csv_monitor",
    "data_efficiency",
    "data_parallel_size",
    "data_types",
    "dataloader_drop_last",
    "datastates_ckpt",
    "disable_allgather",
    "disable_python_gc",
    "dump_state",
    "expert_parallel",
    "flops_profiler",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_allreduce_op",
    "gradient_clipping",
    "gradient_predivide_factor",
    "hybrid_engine",
    "log_level",
    "managed_gradient_accumulation",
    "memory_breakdown",
    "optimizer",
    "pipeline",
    "prescale_gradients",
    "scheduler",
    "seq_parallel_communication_data_type",
    "sequence_parallel_size",
    "steps_per_print",
    "tensor_parallel",
    "tensorboard",
    "timers",
    "torch_autocast",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "use_data_before_expert_parallelism",
    "vocabulary_size",
    "wall_clock_breakdown",
    "wandb",
    "weight_quantization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)
"""Top-level keys; without those that DeepSpeed has removed and refuses, and `bfloat16`, the old name of `bf16`."""

ZERO_ALIASES = {
    "prefetch_bucket_size": "stage3_prefetch_bucket_size",
    "param_persistence_threshold": "stage3_param_persistence_threshold",
    "model_persistence_threshold": "stage3_model_persistence_threshold",
    "max_live_parameters": "stage3_max_live_parameters",
    "max_reuse_distance": "stage3_max_reuse_distance",
    "gather_16bit_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
    "module_granularity_threshold": "stage3_module_granularity_threshold",
    "use_all_reduce_for_fetch_params": "stage3_use_all_reduce_for_fetch_params",
    "allgather_sequential": "stage3_allgather_sequential",
}
"""Short names that DeepSpeed takes as well, and the documented ones they are written as here."""

ZERO = (
    "stage",
    "contiguous_gradients",
    "reduce_scatter",
    "reduce_bucket_size",
    "use_multi_rank_bucket_allreduce",
    "allgather_partitions",
    "allgather_bucket_size",
    "overlap_comm",
    "compute_grad_norm",
    "load_from_fp32_weights",
    "elastic_checkpoint",
    "offload_param",
    "offload_optimizer",
    "zenflow",
    "sub_group_size",
    *ZERO_ALIASES.values(),
    "ignore_unused_parameters",
    "legacy_stage1",
    "round_robin_gradients",
    "parameter_alignment",
    "zero_hpz_partition_size",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
    "memory_efficient_linear",
    "pipeline_loading_checkpoint",
    "override_module_apply",
    "log_trace_cache_warnings",
    "enable_sanity_checks",
    "save_muon_momentum_buffer_in_memory",
    "leaf_module",
)
"""Keys of `zero_optimization`, without the deprecated ones."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A DeepSpeed key that another part of our config decides."""

    option: str
    """The option of ours that decides it."""
    absent: Any = None
    """What its absence from the planned config means."""
    words: tuple[tuple[Any, str], ...] = ()
    """Our word for a value, where it is not the value itself."""
    only_words: bool = True
    """Whether values without a word of ours cannot be planned at all."""
    advice: str = ""
    """What to do instead of an override, where none does it."""

    def override(self, value: Any) -> str:
        """The override that plans this value; or all there are, if none does."""
        word = next((word for known, word in self.words if same(known, value)), None)
        if word is None and self.words and self.only_words:
            return f"{self.option}=" + " or ".join(word for _, word in self.words)
        return f"{self.option}={word or _literal(value)}"


def same(left: Any, right: Any) -> bool:
    """Whether two settings mean the same to DeepSpeed, which ignores the case of names."""
    if isinstance(left, str) and isinstance(right, str):
        return left.lower() == right.lower()
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "")


_OFFLOAD_ADVICE = (
    "Set strategy=zero2_offload or zero3_offload (to CPU memory) or zero3_nvme (to a disk), or delete the key."
)
_NO_CLIP = ((0, "null"),)

OWNED = {
    "train_batch_size": Owned("batch"),
    "train_micro_batch_size_per_gpu": Owned("micro_batch"),
    "gradient_accumulation_steps": Owned("accumulation"),
    "gradient_clipping": Owned("job.clip", words=_NO_CLIP, only_words=False),
    "zero_optimization.stage": Owned("strategy", 0, ((0, "ddp"), (1, "zero1"), (2, "zero2"), (3, "zero3"))),
    "zero_optimization.offload_optimizer.device": Owned("strategy", "none", advice=_OFFLOAD_ADVICE),
    "zero_optimization.offload_param.device": Owned("strategy", "none", advice=_OFFLOAD_ADVICE),
    "zero_optimization.offload_optimizer.nvme_path": Owned("strategy.nvme_path"),
    "bf16.enabled": Owned("precision", False, ((True, "bf16"), (False, "fp32"))),
    "fp16.enabled": Owned("precision", False, ((True, "fp16"), (False, "fp32"))),
    "fp16.initial_scale_power": Owned("precision.initial_scale_power"),
    "optimizer.type": Owned("optimizer", words=(("AdamW", "adamw"), ("Adam", "adam"), ("SGD", "sgd"))),
    "optimizer.params.lr": Owned("optimizer.lr"),
    "optimizer.params.betas": Owned("optimizer.betas"),
    "optimizer.params.eps": Owned("optimizer.eps"),
    "optimizer.params.weight_decay": Owned("optimizer.weight_decay"),
    "optimizer.params.momentum": Owned("optimizer.momentum"),
    "optimizer.params.nesterov": Owned("optimizer.nesterov"),
    "optimizer.params.adam_w_mode": Owned("optimizer", True, ((True, "adamw"), (False, "adam"))),
    "optimizer.params.max_grad_norm": Owned("job.clip", words=_NO_CLIP, only_words=False),
    "scheduler": Owned("schedule", advice="Set schedule=linear, schedule=cosine or schedule=constant; delete the key."),
    "sequence_parallel_size": Owned("mesh", 1, advice="Delete the key: sequence parallelism is not supported."),
    "tensor_parallel.autotp_size": Owned("mesh.tensor", 1),
    "tensor_parallel.vocab_parallel_lm_head": Owned("mesh", False, advice="Delete the key: losses need whole outputs."),
}
"""Dotted DeepSpeed key -> what decides it here."""
