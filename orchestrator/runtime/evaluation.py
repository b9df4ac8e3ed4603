"""Evaluating a split over all workers: sums are added up exactly, then the Task makes metrics of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from orchestrator.runtime.collective import Agreement
from orchestrator.runtime.engine import Engine
from orchestrator.runtime.loader import Loader, to_device
from orchestrator.runtime.task import Task


def evaluate(
    task: Task,
    engine: Engine,
    agreement: Agreement,
    loader: Loader,
    shares: Sequence[tuple[Sequence[int], bool]],
    *,
    counts: bool,
    device: torch.device,
) -> dict[str, float]:
    """Metrics of a whole split; the same on every rank. `shares`: this rank's batches, and whether they count.

    `counts`: whether this rank speaks for its mesh cell.
    """
    sums: dict[str, float] = {}
    count = 0.0
    with engine.evaluating():
        for (_, real), made in zip(shares, loader.batches([samples for samples, _ in shares]), strict=True):
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
