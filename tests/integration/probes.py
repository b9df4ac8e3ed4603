"""Entry functions that launchers run in the contract tests, in place of training."""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import torch.distributed as dist

from orchestrator.foundation.storage import open_store
from orchestrator.runtime.worker.context import WorkerContext


def tell_node(ctx: WorkerContext) -> None:
    """Write down on which of Ray's nodes a worker is; several of them may be on one host, and have one node_rank."""
    import ray

    _write(ctx, "node", {"id": ray.get_runtime_context().get_node_id()})


def tell_facts(ctx: WorkerContext) -> None:
    """Write down all that a worker can see of its world."""
    total = torch.tensor([float(ctx.rank + 1)])
    dist.all_reduce(total)
    ctx.report({"loss": 1.0}, checkpoint="step-00000001")
    ctx.checkpoints.write(f"from-{ctx.rank}", "here\n")
    print(f"words of worker {ctx.rank}")
    _write(
        ctx,
        "facts",
        {
            "rank": ctx.rank,
            "world_size": ctx.world_size,
            "local_rank": ctx.local_rank,
            "node_rank": ctx.node_rank,
            "run_id": ctx.launch.run_id,
            "attempt": ctx.launch.attempt,
            "plan": ctx.launch.plan,
            "should_stop": ctx.should_stop(),
            "sum_over_ranks": total.item(),
            "ray_imported": "ray" in sys.modules,
            "pid": os.getpid(),
        },
    )


def wait_for_stop(ctx: WorkerContext) -> None:
    """End when asked to, or after a minute at most."""
    _write(ctx, "ready", {"pid": os.getpid()})
    deadline = time.monotonic() + 60
    while not ctx.should_stop() and time.monotonic() < deadline:
        time.sleep(0.05)
    _write(ctx, "stopped", {"asked": ctx.should_stop()})


def fail_on_rank_1(ctx: WorkerContext) -> None:
    """A bug in one worker while the others wait for it."""
    if ctx.rank == 1:
        raise ValueError("the seventh batch is empty")
    dist.barrier()


def _write(ctx: WorkerContext, kind: str, facts: dict[str, object]) -> None:
    open_store(ctx.launch.root).write(f"{kind}-{ctx.rank}.json", json.dumps(facts))
