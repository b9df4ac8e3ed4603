"""Evaluating a split over all workers: sums are added up exactly, then the Task makes metrics of them.

What is no sum is measured by torchmetrics objects, whose states are put together exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.runtime.worker.data.loader import Loader, to_device
from orchestrator.runtime.worker.evaluation.answers import Answers
from orchestrator.runtime.worker.evaluation.measures import Measures
from orchestrator.task import Measured, Task


class Evaluable(Protocol):
    """What is evaluated: an Engine, or a model in one process."""

    @property
    def model(self) -> nn.Module:
        """What the Task calls."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Without gradients, dropout and the like."""


class Together(Protocol):
    """Whoever puts together what the workers have."""

    def sum(self, values: list[float]) -> list[float]:
        """Each number summed over the workers."""

    def gather(self, value: Any) -> list[Any]:
        """The value of each worker, in their order."""


def evaluate(
    task: Task,
    engine: Evaluable,
    agreement: Together,
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
    measures = Measures(device)
    with engine.evaluating():
        for (_, real), made in zip(shares, loader.batches([samples for samples, _ in shares]), strict=True):
            moved = to_device(made, device)
            weight = float(real and counts)
            for name, value in task.metrics(engine.model, moved).items():
                if isinstance(value, Measured):
                    measures.add(name, value, counts=real and counts)
                else:
                    sums[name] = sums.get(name, 0.0) + weight * float(value)
            count += weight * task.count(moved)
            if answers:
                answers.ask(engine.model, moved, counts=real and counts)
    names = sorted(sums)
    totals = agreement.sum([count, *(sums[name] for name in names)])
    summary = task.summary(dict(zip(names, totals[1:], strict=True)), totals[0])
    return _merged(task, summary, measures.results(agreement.gather))


def _merged(task: Task, summary: Mapping[str, float], measured: dict[str, float]) -> dict[str, float]:
    twice = sorted(summary.keys() & measured.keys())
    if twice:
        raise ConfigError(
            f"{type(task).__name__} has two metrics of the name {twice[0]!r}: in summary, and by torchmetrics.",
            "Rename one of them.",
        )
    return {name: float(value) for name, value in summary.items()} | measured
