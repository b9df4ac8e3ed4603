"""What batches of one split are made of, and how one is made: in this process, or in one of its own."""

from __future__ import annotations

import random
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from orchestrator.errors import DataError, OrchestratorError
from orchestrator.task import Batch, Dataset, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """A batch to be made."""

    samples: Sequence[int]
    positions: Sequence[int] | None = None
    """Places of the samples in the training stream; None for an evaluation, where nothing is random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """All that batches of one split are made of; plain enough to be sent to another process."""

    task: Task
    dataset: Dataset
    split: str
    seed: int = 0
    seed_libraries: bool = False
    """Also set torch's, numpy's and Python's own random numbers for each sample: not where a model draws from them."""

    def counted(self, request: BatchRequest) -> tuple[Batch, int]:
        """A batch, and what its loss is divided by."""
        places: Sequence[int | None] = request.positions or [None] * len(request.samples)
        items = [self._item(sample, place) for sample, place in zip(request.samples, places, strict=True)]
        try:
            batch = self.task.collate(items)
            return batch, self.task.count(batch)
        except OrchestratorError:
            raise
        except Exception as error:
            raise _failed(f"Samples {_some(request.samples)} of the {self.split} split make no batch", error) from error

    def _item(self, sample: int, position: int | None) -> Any:
        if self.seed_libraries:
            _seed_libraries((self.seed * 1_000_003 + (sample if position is None else position)) % 2**32)
        try:
            item = self.dataset[sample]
            return item if position is None else self._changed(item, chance(self.seed, position))
        except OrchestratorError:
            raise
        except Exception as error:
            raise _failed(f"Sample {sample} of the {self.split} split cannot be read", error) from error

    def _changed(self, item: Any, chance: np.random.Generator) -> Any:
        own = getattr(self.dataset, "augment", None)
        return self.task.augment(own(item, chance) if own else item, chance)


def chance(seed: int, position: int) -> np.random.Generator:
    """Random numbers for the sample at one place in the stream: the same whoever draws them, and whenever."""
    return np.random.Generator(np.random.Philox(key=(seed, position)))


def _seed_libraries(number: int) -> None:
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def _failed(what: str, error: Exception) -> DataError:
    """Names the sample that the code of a dataset or a Task failed on, and the place in the code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return DataError(f"{what}: {type(error).__name__}: {error} ({place.filename}:{place.lineno}).")


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
