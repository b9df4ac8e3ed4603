"""Metrics that are no sums: torchmetrics objects, whose states are put together over all workers.

By ourselves, for torchmetrics' own way counts every process, takes part in more collective calls the more batches a
process had, and needs tensors that NCCL can send. Here each worker tells its states once, over gloo, whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from orchestrator.errors import ConfigError
from orchestrator.task import Measured

if TYPE_CHECKING:
    from torchmetrics import Metric

State = Tensor | list[Any]
"""What torchmetrics keeps under a name: a tensor, with a way to put several together; or a list of parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What one worker's object knows; a composed metric has several."""

    updates: int
    states: dict[str, State]


class Measures:
    """The torchmetrics objects of one evaluation, on one worker."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._metrics: dict[str, Metric] = {}

    def add(self, name: str, measured: Measured, *, counts: bool) -> None:
        """Take in a batch, unless it does not count."""
        if name not in self._metrics:
            self._metrics[name] = _made(name, measured).to(self._device)
        if counts:
            self._metrics[name].update(*measured.given, **measured.named)

    def results(self, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """What comes of all workers' batches. `gather`: the value of each worker; all of them take part."""
        if not self._metrics:
            return {}
        for metric in self._metrics.values():
            metric.cpu()
        everyone = gather({name: [_kept(part) for part in _parts(metric)] for name, metric in self._metrics.items()})
        results: dict[str, float] = {}
        for name, metric in self._metrics.items():
            for place, part in enumerate(_parts(metric)):
                _install(part, name, [kept[name][place] for kept in everyone])
            results |= _numbers(name, metric)
        return results


def _made(name: str, measured: Measured) -> Metric:
    from torchmetrics import Metric

    metric = measured.make()
    if not isinstance(metric, Metric):
        raise ConfigError(
            f"The metric {name!r} is Measured by {metric!r}, which is no torchmetrics Metric.",
            "Give Measured a class or a function without arguments that makes one; one name for each metric.",
        )
    return metric


def _parts(metric: Metric) -> list[Metric]:
    """The object and those it is composed of."""
    from torchmetrics import Metric

    return [module for module in metric.modules() if isinstance(module, Metric)]


def _kept(metric: Metric) -> Kept:
    return Kept(updates=metric.update_count, states=dict(metric.metric_state))


def _install(metric: Metric, name: str, everyone: Sequence[Kept]) -> None:
    """Give an object the states of all workers that had something to measure; those of a single one as they are."""
    told = [kept for kept in everyone if kept.updates]
    for state, reduction in metric._reductions.items():
        values = [kept.states[state] for kept in told]
        if len(values) == 1:
            setattr(metric, state, values[0])
        elif values:
            setattr(metric, state, _together(f"{type(metric).__name__} ({name!r})", state, values, reduction))
    metric._update_count = sum(kept.updates for kept in told)
    metric.distributed_available_fn = lambda: False  # nothing is left to be put together by torchmetrics


def _together(metric: str, state: str, values: Sequence[State], reduction: Any) -> State:
    from torchmetrics.utilities import dim_zero_mean

    if isinstance(values[0], list):
        return [part for value in values for part in value]
    stacked = torch.stack([value for value in values if isinstance(value, Tensor)])
    if reduction is not dim_zero_mean:
        return reduction(stacked) if reduction else stacked
    if (stacked != stacked[0]).any():
        raise ConfigError(
            f"{metric} takes the mean of its {state!r} over workers, however many items each had.",
            "Use a metric with states that are added up or kept in lists.",
        )
    return stacked[0]


def _numbers(name: str, metric: Metric) -> dict[str, float]:
    """What a metric says, under its name; what it says by names of its own, under both."""
    computed = metric.compute()
    named = (
        {f"{name}_{key}": value for key, value in computed.items()}
        if isinstance(computed, Mapping)
        else {name: computed}
    )
    for key, value in named.items():
        if torch.as_tensor(value).numel() != 1:
            raise ConfigError(
                f"{type(metric).__name__} gives {torch.as_tensor(value).numel()} numbers for {key!r}, not one.",
                "Let it say their average, such as with average='macro'.",
            )
    return {key: float(value) for key, value in named.items()}
