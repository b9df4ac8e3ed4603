"""The Task: what a person writes. Loss and metrics of one kind of problem, over any model and data the config names.

A complete one:

    class Digits(Task):
        def loss(self, model, batch):
            images, labels = batch
            return cross_entropy(model(images), labels, reduction="sum")

        def metrics(self, model, batch):
            images, labels = batch
            logits = model(images)
            right = (logits.argmax(1) == labels).sum()
            return {"loss": cross_entropy(logits, labels, reduction="sum"), "accuracy": right}

Sums, not means: workers and micro-batches differ in size, so the division by the global count happens once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchmetrics import Metric

Batch = Any
"""What `collate` returns: tensors, in tuples, lists or dicts."""


class Dataset(Protocol):
    """What a data callable returns: items by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Measured:
    """In what `metrics` returns: not a sum, but what a torchmetrics object makes of all batches and workers together.

    return {"loss": loss, "auroc": Measured(BinaryAUROC, scores, labels)}
    """

    def __init__(self, make: Callable[[], Metric], *given: Any, **named: Any) -> None:
        """`make`: a new object, asked for once in an evaluation. The rest: what its `update` gets of this batch."""
        self.make = make
        self.given = given
        self.named = named


class Task:
    """Base of all Tasks. Only `loss` must be written; the rest has defaults that fit batches of (inputs, targets)."""

    shown = 5000
    """About how many items `show` is asked for: enough for plots, and a file that opens."""

    def __init__(self, model: Callable[[], nn.Module], data: Callable[[str], Dataset | None]) -> None:
        self._model = model
        self._data = data

    def build_model(self) -> nn.Module:
        """A new model, with weights as the seed makes them."""
        return self._model()

    def dataset(self, split: str) -> Dataset | None:
        """The items of `train`, `val` or `test`; None when there is no such split (train must be there)."""
        return self._data(split)

    def augment(self, item: Any, chance: np.random.Generator) -> Any:
        """A training item changed at random, by numbers drawn from `chance` alone: then every run draws the same."""
        return item

    def collate(self, items: Sequence[Any]) -> Batch:
        """Make one batch of several items; the default stacks tensors, arrays and numbers."""
        return torch.utils.data.default_collate(list(items))

    def inputs(self, batch: Batch) -> Any:
        """The part of a batch that goes into the model."""
        return batch[0]

    def count(self, batch: Batch) -> int:
        """What the loss is averaged over: items by default, tokens for a language model."""
        return len(self.inputs(batch))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The summed (not averaged) loss of a batch."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method loss(model, batch) that returns a summed loss."
        )

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | float | Measured]:
        """Sums over a batch, added up over all batches and workers for `summary`; and what is `Measured`."""
        return {"loss": self.loss(model, batch)}

    def summary(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Metrics of a whole split from its sums and count; the default divides each sum by the count.

        What is `Measured` is added to them.
        """
        return {name: total / count for name, total in sums.items()}

    def show(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | Sequence[Any]]:
        """For plots and samples: of each item in a batch what is true (`truth`) and what the model says (`answer`).

        Classes by number, with the model's `confidence`; numbers as floats; or texts, where it may be told what was
        `given`. By default nothing is shown.
        """
        return {}

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The modules that activation checkpointing computes again: by default, those in ModuleLists."""
        return [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]
