"""Leaves a worker process as if nothing had trained in it, so that the next training is the one it would be alone."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any

import torch
import torch.distributed as dist

SEED = torch.initial_seed()
"""What torch began with in this process."""


def forget_training() -> None:
    """End the process group, and what DeepSpeed and torch know of a training that ended in order."""
    _forget_groups()
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    gc.collect()
    # Libraries stay; later collections need not go through all of them again, which takes longer than small trainings.
    gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _forget_groups() -> None:
    """DeepSpeed keeps groups, and a backend that believes itself initialized."""
    if "deepspeed.comm.comm" in sys.modules:
        comm: Any = importlib.import_module("deepspeed.comm.comm")
        if comm.cdb is not None and comm.cdb.is_initialized():
            comm.destroy_process_group()
            comm.cdb = None
    if dist.is_initialized():
        dist.destroy_process_group()
