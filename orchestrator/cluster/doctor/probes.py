"""What the heavy packages on this machine say of themselves, each asked in a process of its own.

A package that is missing, broken or crashes on import is then a fact to report and not the end of the report, and
several are asked at the same time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 60.0
MARK = "facts: "


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a package said, or why it said nothing."""

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def ask(packages: tuple[str, ...]) -> dict[str, Answer]:
    """Import each package in its own process, all at once, and bring home what they say."""
    started = {
        package: subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, package], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for package in packages
    }
    return {package: _answer(process) for package, process in started.items()}


def _answer(process: subprocess.Popen[str]) -> Answer:
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Answer(error=f"its import did not end within {TIMEOUT_S:g} s")
    said = [line for line in out.splitlines() if line.startswith(MARK)]  # some packages print lines of their own
    if process.returncode == 0 and said:
        return Answer(facts=json.loads(said[0].removeprefix(MARK)))
    lines = err.strip().splitlines()
    return Answer(error=lines[-1] if lines else f"its import ended with exit code {process.returncode}")


def _torch() -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "built_for_cuda": torch.version.cuda,
        "cuda": torch.cuda.is_available(),
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory, "capability": [gpu.major, gpu.minor]} for gpu in gpus],
        "gloo": dist.is_available() and dist.is_gloo_available(),
        "nccl": _nccl() if dist.is_available() and dist.is_nccl_available() else None,
    }


def _nccl() -> list[int]:
    from torch.cuda import nccl

    version: Any = nccl.version  # torch leaves it untyped
    return list(version())


def _deepspeed() -> dict[str, Any]:
    import importlib

    import deepspeed
    from deepspeed.accelerator import get_accelerator

    communication = importlib.import_module("deepspeed.comm.torch")
    return {
        "version": deepspeed.__version__,
        "accelerator": get_accelerator()._name,
        "shm_op_replaceable": hasattr(communication, "build_shm_op"),
    }


def _ray() -> dict[str, Any]:
    import ray
    import ray.train

    return {"version": ray.__version__}


def _mlflow() -> dict[str, Any]:
    import mlflow

    return {"version": mlflow.__version__}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch,
    "deepspeed": _deepspeed,
    "ray": _ray,
    "mlflow": _mlflow,
}


if __name__ == "__main__":
    print(MARK + json.dumps(PROBES[sys.argv[1]]()))
