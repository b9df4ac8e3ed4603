"""Ray Train in RayLauncher's child process: joins or starts Ray, and runs one gang in a TorchTrainer."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import paths
from orchestrator.cluster import address as address_of_ray
from orchestrator.cluster import network
from orchestrator.environment import TELEMETRY_OFF
from orchestrator.errors import MachineError
from orchestrator.plan.types import WorkerResources
from orchestrator.resilience.failures import is_about_connection
from orchestrator.runtime.context import Launch, StoreContext

CONTROLLER_SETTINGS = {
    # How often Ray Train's controller looks at its workers: its default of 2 s delays start, end and every failure.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A gang whose room others took first is placed anew after this; the default of 60 s is made for autoscaling.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # How long workers that cannot answer any more are waited for before they are killed; the default is 30 s.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
    # Helper actors that cost seconds of start-up and do nothing on a single machine.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
FAILED_STARTS = ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError")
"""Ray Train's internal exceptions for a gang that did not get its resources, or lost a worker while starting."""
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
        options["runtime_env"]["worker_process_setup_hook"] = network.hook()
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


@dataclass(frozen=True, kw_only=True, slots=True)
class GangEnd:
    """How a gang ended."""

    error: str = ""
    """Empty: all workers returned in order."""
    started: bool = True
    """Whether the workers had started: if not, the same may go well elsewhere."""


def fit(launch: Launch, resources: WorkerResources, workers: int, where: Mapping[str, Any]) -> GangEnd:
    """Run a gang of so many workers to its end; `where` says on which nodes."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    given = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory}
    scaling = ScalingConfig(
        num_workers=workers,
        use_gpu=resources.gpus > 0,
        resources_per_worker={name: amount for name, amount in given.items() if amount},
        **where,
    )
    trainer = TorchTrainer(
        work,
        train_loop_config=dataclasses.asdict(dataclasses.replace(launch, world_size=workers)),
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            name=f"attempt-{launch.attempt}",
            **own_storage(launch.root),
            # Our driver decides what follows a failure. -1, the default, would try to start a gang for ever.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return GangEnd(error=cause_of(error), started=not _is_failed_start(error))
    return GangEnd()


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
    """The most telling line of Ray's nested exceptions: a worker that is gone explains what the others say."""
    failures = sorted(getattr(error, "worker_failures", {}).items())
    gone = [rank for rank, failure in failures if hasattr(failure, "health_check_failure")]
    if gone:
        return _gone(gone, str(dict(failures)[gone[0]]))
    for rank, failure in failures:
        if is_about_connection({"type": type(failure).__name__, "message": str(failure)}):
            return f"worker {rank} lost the connection to the others"
        return f"worker {rank}: {first_line(failure)}"
    return first_line(getattr(error, "controller_failure", error))


def _gone(ranks: list[int], text: str) -> str:
    """Workers that did not answer Ray any more."""
    who = f"worker {ranks[0]}" if len(ranks) == 1 else f"workers {', '.join(map(str, ranks))}"
    return f"{who} {'was' if len(ranks) == 1 else 'were'} lost" + (" with the node" if "node has died" in text else "")


def _is_failed_start(error: Exception) -> bool:
    """Whether Ray Train's controller could not get its workers started."""
    return type(getattr(error, "controller_failure", None)).__name__ in FAILED_STARTS
