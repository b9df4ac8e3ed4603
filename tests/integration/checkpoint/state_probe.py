"""A worker that takes up the newest checkpoint and saves it again at once: what it then holds is what it had loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from orchestrator.config import load
from orchestrator.config.targets import targets
from orchestrator.plans.types import Plan
from orchestrator.runtime.checkpoint.checkpoint import Checkpoints, Retention
from orchestrator.runtime.worker.collective import Agreement
from orchestrator.runtime.worker.context import WorkerContext
from orchestrator.runtime.worker.engine import Engine
from orchestrator.runtime.worker.hardware import configure_torch, pick_device


def save_again(ctx: WorkerContext) -> None:
    """Entry for launchers."""
    plan = Plan.from_dict(ctx.launch.plan)
    spec = load.spec_from_dict(plan.spec)
    configure_torch(spec)
    task = targets.bind(plan.spec, project=Path(ctx.launch.project)).task()
    engine = Engine(task, spec, plan.row(ctx.world_size), pick_device(ctx.local_rank, 0))
    checkpoints = Checkpoints(
        ctx.checkpoints,
        rank=ctx.rank,
        world_size=ctx.world_size,
        attempt=ctx.launch.attempt,
        gang=Agreement(),
        retention=Retention(keep=99),
    )
    checkpoints.begin()
    found = checkpoints.load_newest(engine.restore)
    checkpoints.save(dataclasses.replace(found.progress, step=found.progress.step + 1), engine.snapshot())
    checkpoints.settle()
