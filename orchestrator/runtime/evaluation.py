"""Evaluating a split over all workers: sums are added up exactly, then the Task makes metrics of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn

from orchestrator.runtime.answers import Answers
from orchestrator.runtime.loader import Loader, to_device
from orchestrator.runtime.task import Task


class Evaluable(Protocol):
    """What is evaluated: an Engine, or a model in one process."""

    @property
    def model(self) -> nn.Module:
        """What the Task calls."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Without gradients, dropout and the like."""


class Summing(Protocol):
    """Whoever adds up numbers over all workers."""

    def sum(self, values: list[float]) -> list[float]:
        """Each number summed over the workers."""


def evaluate(
    task: Task,
    engine: Evaluable,
    agreement: Summing,
    loader: Loader,
    shares: Sequence[tuple[Sequence[int], bool]],
    *,
    counts: bool,
    device: torch.device,
    answers: Answers | None = None,
) -> dict[str, float]:
    """Metrics of a whole split; the same on every rank. `shares`: this rank's batches, and whether they count.

    `counts`: whether this rank speaks for its mesh cell. `answers`: takes what the model says of single items.
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
            if answers:
                answers.ask(engine.model, moved, counts=real and counts)
    names = sorted(sums)
    totals = agreement.sum([count, *(sums[name] for name in names)])
    return {
        name: float(value) for name, value in task.summary(dict(zip(names, totals[1:], strict=True)), totals[0]).items()
    }
