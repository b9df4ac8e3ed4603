"""One worker that saves the same state of a gigabyte in turns: our way beside training, and DeepSpeed's in place.

Started by benchmarks/checkpoints.py as `torchrun checkpoint_worker.py FOLDER PAIRS`; prints one line of JSON per save.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from orchestrator.config import load
from orchestrator.config.targets import targets
from orchestrator.foundation.storage import LocalStore
from orchestrator.plans.make import make
from orchestrator.plans.placement.inventory import Inventory, Node
from orchestrator.runtime.checkpoint.catalog import Progress
from orchestrator.runtime.checkpoint.checkpoint import Checkpoints, Retention
from orchestrator.runtime.worker.collective import Agreement
from orchestrator.runtime.worker.engine import Engine
from orchestrator.task import Batch, Task

OVERRIDES = ["job=diabetes", "strategy=zero1", "model.width=3600", "model.depth=8", "batch=8", "tracking=off"]
"""Ninety million parameters: 1.1 GB with Adam's moments."""


def main(folder: Path, pairs: int) -> None:
    """Pairs of saves, each into a folder of its own that is removed before the next; the first pair warms up."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    loaded = load.load([*OVERRIDES, "cluster=torchrun", "cluster.workers=1"])
    machine = Inventory(nodes=(Node(name="bench", cpus=2, memory=16 * 2**30),))
    plan = make(loaded.resolved, loaded.spec, machine, environment={}, shared_storage=False)
    task = targets.bind(plan.spec, project=Path.cwd()).task()
    engine = Engine(task, loaded.spec, plan.preferred, torch.device("cpu"))
    data = task.dataset("train")
    batch = task.collate([data[k] for k in range(8)])
    step(engine, task, batch)
    saved = checkpoints(folder / "warm")
    saved.warm(engine.snapshot())
    for number in range(pairs + 1):
        ours = save_ours(saved, engine, number)
        begun = time.perf_counter()
        engine._engine.save_checkpoint(str(folder / "peer"), tag=str(number), save_latest=True)
        peer = time.perf_counter() - begun
        size = sum(path.stat().st_size for path in (folder / "peer").rglob("*") if path.is_file())
        for place in ("warm", "peer"):
            shutil.rmtree(folder / place)
        step(engine, task, batch)
        if number:
            print(json.dumps({"ours": ours, "peer": {"blocked_s": peer, "total_s": peer}, "bytes": size}), flush=True)


def step(engine: Engine, task: Task, batch: Batch) -> None:
    """One training step, so that each save has something new."""
    engine.backward(task.loss(engine.model, batch) / 8)
    engine.step()


def checkpoints(folder: Path) -> Checkpoints:
    """Ours, in a folder."""
    store = LocalStore(str(folder))
    return Checkpoints(store, rank=0, world_size=1, attempt=1, gang=Agreement(), retention=Retention(keep=1))


def save_ours(saved: Checkpoints, engine: Engine, number: int) -> dict[str, float]:
    """How long training waits, and how long until the checkpoint counts (on the disk, with its sums)."""
    begun = time.perf_counter()
    saved.save(Progress(step=number), engine.snapshot())
    blocked = time.perf_counter() - begun
    saved.settle()
    return {"blocked_s": blocked, "total_s": time.perf_counter() - begun}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
