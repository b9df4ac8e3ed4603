"""What the workers of test gangs do; `launch.plan` says which of them does what."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from orchestrator.foundation.storage import open_store
from orchestrator.runtime.worker.context import WorkerContext

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def meet(ctx: WorkerContext) -> None:
    """Write down who met whom, and where."""
    import ray

    total = torch.tensor([float(ctx.rank + 1)])
    dist.all_reduce(total)
    facts = {
        "pid": os.getpid(),
        "rank": ctx.rank,
        "local_rank": ctx.local_rank,
        "node_rank": ctx.node_rank,
        "world_size": ctx.world_size,
        "plan_size": ctx.launch.world_size,
        "sum": total.item(),
        "node": ray.get_runtime_context().get_node_id(),
        "environment": {name: os.environ.get(name) for name in (*TOLD, "OMP_NUM_THREADS", "DO_NOT_TRACK")},
        "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
    }
    open_store(ctx.launch.root).write(f"met-{ctx.launch.attempt}-{ctx.rank}.json", json.dumps(facts))


def part(ctx: WorkerContext) -> None:
    """Worker `rank` goes, in the way of `how`; the others wait for it, in a collective or (`apart`) by themselves."""
    open_store(ctx.launch.root).write(f"here-{ctx.rank}.json", json.dumps({"pid": os.getpid()}))
    dist.barrier()
    if ctx.rank == ctx.launch.plan["rank"]:
        _go(ctx.launch.plan["how"])
    if ctx.launch.plan.get("apart"):
        time.sleep(60)
    dist.barrier()


def _go(how: str) -> None:
    if how == "raise":
        raise ValueError("the seventh batch\nis empty")
    if how == "sys.exit":
        sys.exit(5)
    if how == "os._exit":
        os._exit(3)
    if how == "wait":
        time.sleep(60)
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
