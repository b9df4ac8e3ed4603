"""The child process of RayLauncher: starts or joins Ray, checks that the gang can ever fit, and runs a TorchTrainer."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from typing import Any

from orchestrator import paths
from orchestrator.cluster import address as address_of_ray
from orchestrator.cluster import ray_nodes
from orchestrator.environment import TELEMETRY_OFF
from orchestrator.errors import MachineError
from orchestrator.plan.types import WorkerResources
from orchestrator.runtime import ray_scaling
from orchestrator.runtime.context import Launch, StoreContext
from orchestrator.runtime.launcher import read_launch, write_machine_error
from orchestrator.runtime.ray_launcher import write_cause

CONTROLLER_SETTINGS = {
    # How often Ray Train's controller looks at its workers: its default of 2 s delays start, end and every failure.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Helper actors that cost seconds of start-up and do nothing on a single machine.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
OBJECT_STORE_BYTES = 256 * 2**20
"""Nothing of ours goes through Ray's object store; a small one starts quickly and fits small /dev/shm."""


class RayContext(StoreContext):
    """A worker's world as Ray Train tells it."""

    def __init__(self, launch: Launch) -> None:
        import ray.train

        context = ray.train.get_context()
        super().__init__(
            launch,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            local_rank=context.get_local_rank(),
            node_rank=context.get_node_rank(),
        )


def work(launch: dict[str, Any]) -> None:
    """What Ray Train runs in each worker process."""
    from orchestrator.runtime.boot import run_entry

    run_entry(RayContext(Launch(**launch)))


def connect(address: str, launch: Launch, resources: WorkerResources) -> None:
    """Join the cluster at an address, or start a Ray that ends with this process."""
    import ray

    environment = {**TELEMETRY_OFF, **CONTROLLER_SETTINGS, "OMP_NUM_THREADS": str(resources.threads)}
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "runtime_env": {"env_vars": environment},
    }
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
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"Ray at cluster.address={address} cannot be reached" if address else "Ray could not be started here"
        hint = address_of_ray.HINT if address else "Look for what is missing with: orchestrator doctor."
        raise MachineError(f"{what}: {first_line(error).partition('. ')[0]}.", hint) from error


def fit(launch: Launch, resources: WorkerResources, where: dict[str, Any]) -> None:
    """Run the gang to its end; `where` says on which nodes."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    scaling = ScalingConfig(
        num_workers=launch.world_size,
        use_gpu=resources.gpus > 0,
        resources_per_worker=ray_scaling.per_worker(resources),
        **where,
    )
    trainer = TorchTrainer(
        work,
        train_loop_config=dataclasses.asdict(launch),
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            name=f"attempt-{launch.attempt}",
            **own_storage(launch.root),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()


def own_storage(root: str) -> dict[str, Any]:
    """Where Ray Train keeps its notes: with the run; through fsspec in other stores, of which pyarrow knows few."""
    place = f"{root}/{paths.RAY}"
    if not paths.is_url(place):
        return {"storage_path": place}
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, path = fsspec.core.url_to_fs(place)
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(fs))}


def first_line(error: BaseException) -> str:
    """The first line of an exception's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def cause_of(error: Exception) -> str:
    """The most telling line of Ray's nested exceptions."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, failure = sorted(failures.items())[0]
        return f"worker {rank}: {first_line(failure)}"
    return first_line(error)


def main(launch_file: str, address: str) -> int:
    """Train; 0 when all workers returned in order."""
    os.environ.update(CONTROLLER_SETTINGS)
    launch, resources = read_launch(launch_file)
    try:
        connect(address, launch, resources)
        fit(launch, resources, ray_scaling.where(launch, resources, ray_nodes.live(), own=not address))
    except MachineError as error:
        write_machine_error(launch_file, error)
        return 1
    except Exception as error:
        write_cause(launch_file, cause_of(error))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
