"""Evaluating a split over all workers: sums are added up exactly, then the Task makes metrics of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from orchestrator.runtime.collective import Agreement
from orchestrator.runtime.engine import Engine
from orchestrator.runtime.loader import make_batch, prefetch, to_device
from orchestrator.runtime.sampler import split_evenly
from orchestrator.runtime.task import Dataset, Task


def evaluate(
    task: Task,
    engine: Engine,
    agreement: Agreement,
    dataset: Dataset,
    *,
    batch: int,
    data_rank: int,
    data_size: int,
    counts: bool,
    device: torch.device,
) -> dict[str, float]:
    """Metrics of a whole split; the same on every rank. `counts`: whether this rank speaks for its mesh cell."""
    shares = split_evenly(len(dataset), batch, data_rank, data_size)
    make: Callable[[int], object] = lambda k: make_batch(task, dataset, shares[k][0], device.type == "cuda")  # noqa: E731
    sums: dict[str, float] = {}
    count = 0.0
    with engine.evaluating():
        for (_, real), made in zip(shares, prefetch(make, range(len(shares))), strict=True):
            moved = to_device(made, device)
            weight = float(real and counts)
            for name, value in task.metrics(engine.model, moved).items():
                sums[name] = sums.get(name, 0.0) + weight * float(value)
            count += weight * task.count(moved)
    names = sorted(sums)
    totals = agreement.sum([count, *(sums[name] for name in names)])
    return {
        name: float(value) for name, value in task.summary(dict(zip(names, totals[1:], strict=True)), totals[0]).items()
    }
