"""What workers agree on, over gloo on the CPU, so that no GPU is made to wait for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """Sums and other things of all workers, in a process group of its own so as not to mix with DeepSpeed's."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")

    def barrier(self) -> None:
        """Wait for all workers."""
        dist.barrier(group=self._group)

    def sum(self, values: list[float]) -> list[float]:
        """Each value's sum over the workers."""
        return self.sum_later(values).result()

    def gather(self, value: Any) -> list[Any]:
        """The value of each worker, in the order of ranks."""
        values: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(values, value, group=self._group)
        return values

    def sum_later(self, values: list[float]) -> PendingSum:
        """The same without waiting: ask for the result when it is needed."""
        tensor = torch.tensor(values, dtype=torch.float64)
        return PendingSum(tensor, dist.all_reduce(tensor, group=self._group, async_op=True))


class PendingSum:
    """Sums that are on their way."""

    def __init__(self, tensor: torch.Tensor, work: dist.Work) -> None:
        self._tensor = tensor
        self._work = work

    def result(self) -> list[float]:
        """Wait for the sums."""
        self._work.wait()
        values: list[float] = self._tensor.tolist()
        return values
