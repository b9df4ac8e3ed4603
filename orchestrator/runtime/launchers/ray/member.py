"""One process of a gang: the Ray actor that a worker runs in. Imported by each of them, so it imports little itself."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Sequence
from typing import Any

from orchestrator.cluster.nodes import network
from orchestrator.runtime.launchers.ray.slots import Member, Seat


class GangMember:
    """Answers one call after the other; the last one is the training itself."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        network.use_ray_interface()
        self._store: Any = None

    def introduce(self) -> Member:
        """Say who and where this is."""
        import psutil
        import ray

        context = ray.get_runtime_context()
        return Member(
            node=context.get_node_id(),
            address=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            born=psutil.Process().create_time(),
            worker=context.get_worker_id(),
            gpus=tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", ())),
        )

    def prepare(self, modules: Sequence[str], seat: Seat | None = None) -> None:
        """Import what is needed later, while others still start. What cannot be imported is told by who needs it."""
        if seat and seat.visible:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seat.visible)
        with contextlib.suppress(ImportError):
            for name in modules:
                importlib.import_module(name)

    def host(self, address: str) -> int:
        """Open the store through which the workers meet, on a port that is free and stays ours."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        port: int = self._store.port
        return port

    def work(self, launch: dict[str, Any], seat: Seat, backend: str, address: str, port: int) -> dict[str, str] | None:
        """Carry out a launch: None when it returned in order, else its exception as plain data.

        As an exception it would reach a process that has no torch and not the person's code.
        """
        os.environ.update(seat.environment(address, port))
        try:
            self._work(launch, seat, backend, address, port)
        except SystemExit as exit_:
            if hasattr(exit_, "ray_terminate_msg"):  # Ray's way to end a process that gets SIGTERM
                raise
            if exit_.code:
                return {"type": "SystemExit", "message": str(exit_.code)}
        except BaseException as error:  # noqa: BLE001  the process' boundary: boot has recorded it, with its traceback
            return {"type": type(error).__name__, "message": str(error)}
        return None

    def _work(self, launch: dict[str, Any], seat: Seat, backend: str, address: str, port: int) -> None:
        import torch
        import torch.distributed as dist
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        from orchestrator.runtime.fast_start.reset import forget_training
        from orchestrator.runtime.worker.boot import run_entry
        from orchestrator.runtime.worker.context import Launch, StoreContext

        if seat.visible:
            torch.cuda.set_device(seat.device)
        store = self._store if seat.rank == 0 else TCPStore(address, port, is_master=False)
        dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.world_size)
        run_entry(
            StoreContext(
                Launch(**launch),
                rank=seat.rank,
                world_size=seat.world_size,
                local_rank=seat.local_rank,
                node_rank=seat.node_rank,
            )
        )
        # Not after a failure: the others may be gone, and NCCL would wait for them.
        forget_training()
