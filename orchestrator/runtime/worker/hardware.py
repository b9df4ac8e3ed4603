"""What this worker computes on, and the settings of torch and DeepSpeed that follow from it.

No compiled DeepSpeed op is used: fused Adam, CPU Adam and the shared-memory op are compiled on first use (DeepSpeed
0.19: 80 to 125 s, and a compiler is needed). The plan asks for torch's Adam, and the shared-memory op is marked as
incompatible here, so that DeepSpeed does not try to build it.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from orchestrator.config.schema import JobSpec, PrecisionName
from orchestrator.errors import MachineError

DTYPES = {PrecisionName.fp32: torch.float32, PrecisionName.bf16: torch.bfloat16, PrecisionName.fp16: torch.float16}


def pick_device(local_rank: int, gpus_per_worker: float) -> torch.device:
    """The worker's GPU when the plan gives it one, else the CPU."""
    if gpus_per_worker <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise MachineError(
            f"The plan gives each worker {gpus_per_worker:g} GPU, but torch sees none on this node.",
            "Check the driver and torch's CUDA build with: orchestrator doctor; or set cluster.gpus_per_worker=0.",
        )
    # A launcher that hides other workers' GPUs leaves one visible, whatever the local rank.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def check_precision(precision: PrecisionName, device: torch.device) -> None:
    """Refuse number formats that the device cannot compute."""
    if precision is PrecisionName.fp16 and device.type == "cpu":
        raise MachineError("precision=fp16 does not run on a CPU.", "Choose precision=fp32.")
    if precision is PrecisionName.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise MachineError(
            f"precision=bf16 does not run on {torch.cuda.get_device_name(device)}.", "Choose precision=fp16 or fp32."
        )


def configure_torch(spec: JobSpec) -> None:
    """Threads, TF32 and determinism, the same in every worker."""
    torch.set_num_threads(spec.cluster.threads_per_worker)
    torch.backends.cuda.matmul.allow_tf32 = spec.precision.tf32
    torch.backends.cudnn.allow_tf32 = spec.precision.tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def forgo_compiled_ops(ops: ModuleType | None = None) -> None:
    """Keep DeepSpeed from compiling `deepspeed_shm_comm` on first use (about 100 s on a fresh machine).

    Only `inference_all_reduce` uses that op. DeepSpeed builds it when its table of compatible ops says that it could.
    `ops`: deepspeed.ops, where that is being imported right now.
    """
    ops = ops or importlib.import_module("deepspeed.ops")
    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def seed_step(seed: int, step: int, data_rank: int) -> None:
    """Make random numbers (dropout) depend on these alone, so that a resumed run needs no saved state.

    Workers that compute one share of the data together get the same: what one drops, all must drop.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 65_537 + data_rank)
