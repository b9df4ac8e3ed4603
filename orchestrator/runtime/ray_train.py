"""The child process of RayLauncher: starts or joins Ray, checks that the gang can ever fit, and runs a TorchTrainer."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from orchestrator import paths
from orchestrator.environment import TELEMETRY_OFF
from orchestrator.errors import MachineError
from orchestrator.plan.types import WorkerResources
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
        check_answers(address)
        options["address"] = address
    else:
        wanted = int(launch.world_size * resources.cpus + 0.999)
        options |= {
            "address": "local",
            "num_cpus": max(wanted, len(os.sched_getaffinity(0))),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"Ray at cluster.address={address} cannot be reached" if address else "Ray could not be started here"
        raise MachineError(
            f"{what}: {first_line(error)}.", "Look for what is missing with: orchestrator doctor."
        ) from error
    check_room(launch.world_size, resources, ray.cluster_resources())


def check_answers(address: str) -> None:
    """Knock at the cluster's door first: Ray itself would wait for minutes where nobody answers."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    hint = (
        "Give Ray's address as HOST:PORT (the port is 6379 unless set otherwise), or start it with: ray start --head."
    )
    if "/" in host or not port.isdigit():
        raise MachineError(f"cluster.address={address} is not an address of Ray.", hint)
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise MachineError(f"Ray at cluster.address={address} cannot be reached: {reason}.", hint) from error


def check_room(workers: int, resources: WorkerResources, there: Mapping[str, float]) -> None:
    """Refuse what would wait for ever."""
    for name, each in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        wanted, found = workers * each, there.get(name, 0)
        if wanted > found:
            key = f"cluster.{name.lower()}s_per_worker"
            raise MachineError(
                f"{workers} workers with {each:g} {name} each need {wanted:g}, but the cluster has {found:g}.",
                f"Set cluster.workers={int(found // each)} or lower {key}." if found >= each else f"Lower {key}.",
            )


def fit(launch: Launch, resources: WorkerResources) -> None:
    """Run the gang to its end."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    scaling = ScalingConfig(
        num_workers=launch.world_size,
        use_gpu=resources.gpus > 0,
        resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
    )
    trainer = TorchTrainer(
        work,
        train_loop_config=dataclasses.asdict(launch),
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            name=f"attempt-{launch.attempt}",
            storage_path=f"{launch.root}/{paths.RAY}",
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()


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
        fit(launch, resources)
    except MachineError as error:
        write_machine_error(launch_file, error)
        return 1
    except Exception as error:
        write_cause(launch_file, cause_of(error))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
