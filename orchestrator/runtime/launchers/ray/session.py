"""A connection to Ray: to the cluster at an address, or to a Ray of our own that ends with this process."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from orchestrator.cluster.node import address as address_of_ray
from orchestrator.errors import MachineError
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.fast_start import own_ray
from orchestrator.runtime.worker.context import Launch

OBJECT_STORE_BYTES = 256 * 2**20
"""Nothing of ours goes through Ray's object store; a small one starts quickly and fits small /dev/shm."""


def connect(address: str, launch: Launch, resources: WorkerResources) -> None:
    """Join the cluster at an address, or start a Ray.

    Without a runtime_env: workers that Ray has ready serve only those who ask for none.
    """
    import ray

    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        address_of_ray.check_answers(address)
        options["address"] = address
    else:
        wanted = int(launch.world_size * resources.cpus + 0.999)
        options |= {
            "address": "local",
            "num_cpus": max(wanted, len(os.sched_getaffinity(0))),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            # The plan has made sure that the machine has it; Ray would offer a part of what is free at this moment.
            **({"_memory": launch.world_size * resources.memory} if resources.memory else {}),
        }
    try:
        with contextlib.nullcontext() if address else own_ray.lean():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"Ray at cluster.address={address} cannot be reached" if address else "Ray could not be started here"
        hint = address_of_ray.HINT if address else "Look for what is missing with: orchestrator doctor."
        raise MachineError(f"{what}: {first_line(error).partition('. ')[0]}.", hint) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
