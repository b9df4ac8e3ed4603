"""Workers under Ray Train: a gang of actors with the resources of the plan, on a Ray of our own or on a cluster."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import threading
import warnings
from collections.abc import Mapping
from typing import Any

from orchestrator import paths
from orchestrator.environment import TELEMETRY_OFF
from orchestrator.errors import MachineError
from orchestrator.plan.types import WorkerResources
from orchestrator.runtime.context import Launch, StoreContext
from orchestrator.runtime.launcher import Ended

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


class RayLauncher:
    """Starts Ray where none was named, and runs a TorchTrainer in a thread: the driver stays free for people."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._thread: threading.Thread | None = None
        self._ended: Ended | None = None
        self._machine_error: MachineError | None = None
        self._cancelled = False

    def start(self, launch: Launch, resources: WorkerResources) -> None:
        """Begin to start Ray and the workers."""
        os.environ.update(CONTROLLER_SETTINGS)
        self._thread = threading.Thread(target=self._run, args=(launch, resources), name="ray-train", daemon=True)
        self._thread.start()

    def poll(self) -> Ended | None:
        """Whether `fit` has returned."""
        if self._machine_error:
            raise self._machine_error
        return self._ended

    def kill(self) -> None:
        """End the workers by ending our connection, which ends the controller and its actors."""
        self._cancelled = True
        self.close()

    def close(self) -> None:
        """Disconnect; a Ray of our own ends with that."""
        import ray

        if ray.is_initialized():
            ray.shutdown()

    def _run(self, launch: Launch, resources: WorkerResources) -> None:
        try:
            self._connect(launch, resources)
            self._fit(launch, resources)
            self._ended = Ended()
        except MachineError as error:
            self._machine_error = error
        except Exception as error:  # noqa: BLE001 - a thread boundary: handed to the driver, which asks with poll()
            self._ended = Ended(error="stopped" if self._cancelled else _cause(error))

    def _connect(self, launch: Launch, resources: WorkerResources) -> None:
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if self._address:
            _check_answers(self._address)
        environment = {**TELEMETRY_OFF, **CONTROLLER_SETTINGS, "OMP_NUM_THREADS": str(resources.threads)}
        options: dict[str, Any] = {
            "logging_level": logging.ERROR,
            "log_to_driver": False,
            "runtime_env": {"env_vars": environment},
        }
        if self._address is None:
            wanted = int(launch.world_size * resources.cpus + 0.999)
            options |= {
                "address": "local",
                "num_cpus": max(wanted, len(os.sched_getaffinity(0))),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            options["address"] = self._address
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise MachineError(
                f"Ray at cluster.address={self._address} cannot be reached: {_first_line(error)}."
                if self._address
                else f"Ray could not be started on this machine: {_first_line(error)}.",
                "Look for what is missing with: orchestrator doctor.",
            ) from error
        self._check_room(launch, resources, ray.cluster_resources())

    def _check_room(self, launch: Launch, resources: WorkerResources, there: Mapping[str, float]) -> None:
        """Refuse what would wait for ever."""
        for name, each in (("CPU", resources.cpus), ("GPU", resources.gpus)):
            wanted, found = launch.world_size * each, there.get(name, 0)
            if wanted > found:
                key = f"cluster.{name.lower()}s_per_worker"
                raise MachineError(
                    f"{launch.world_size} workers with {each:g} {name} each need {wanted:g}, "
                    f"but the cluster has {found:g}.",
                    f"Set cluster.workers={int(found // each)} or lower {key}." if found >= each else f"Lower {key}.",
                )

    def _fit(self, launch: Launch, resources: WorkerResources) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        scaling = ScalingConfig(
            num_workers=launch.world_size,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
        )
        trainer = TorchTrainer(
            _work,
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


def _work(launch: dict[str, Any]) -> None:
    """What Ray Train runs in each worker process."""
    from orchestrator.runtime.boot import run_entry

    run_entry(RayContext(Launch(**launch)))


def _check_answers(address: str) -> None:
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


def _cause(error: Exception) -> str:
    """The most telling line of Ray's nested exceptions."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, failure = sorted(failures.items())[0]
        return f"worker {rank}: {_first_line(failure)}"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
