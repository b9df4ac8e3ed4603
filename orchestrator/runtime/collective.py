"""Small numbers that workers agree on, over gloo on the CPU, so that no GPU is made to wait for them."""

from __future__ import annotations

import torch
import torch.distributed as dist


class Agreement:
    """Sums over all workers, in a process group of its own so as not to mix with DeepSpeed's."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")

    def barrier(self) -> None:
        """Wait for all workers."""
        dist.barrier(group=self._group)

    def sum(self, values: list[float]) -> list[float]:
        """Each value's sum over the workers."""
        return self.sum_later(values).result()

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
