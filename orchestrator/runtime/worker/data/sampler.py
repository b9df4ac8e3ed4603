"""Which sample is where: one endless stream of sample numbers, the same for any number of workers.

Position p of the stream is sample `permutation(seed, p // size)[p % size]`. Step k consumes positions
[k * batch, (k + 1) * batch), so the step number is the whole state: resuming replays nothing, and a change of workers
moves no sample to another step.
"""

from __future__ import annotations

import math

import torch

from orchestrator.plans.types import Row


class Sampler:
    """The samples of each step for one data-parallel rank."""

    def __init__(self, *, size: int, seed: int, row: Row, data_rank: int) -> None:
        self._size = size
        self._seed = seed
        self._row = row
        self._rank = data_rank
        self._epoch = -1
        self._order: list[int] = []

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step."""
        return self._row.accumulation

    def positions(self, step: int) -> list[range]:
        """Places in the stream that this rank computes in one optimizer step: one range per forward pass."""
        row = self._row
        stride = row.micro_batch * row.mesh.data
        starts = [step * row.batch + k * stride + self._rank * row.micro_batch for k in range(row.accumulation)]
        return [range(start, start + row.micro_batch) for start in starts]

    def window(self, step: int) -> list[list[int]]:
        """Sample numbers of one optimizer step: one list per forward pass."""
        return [[self._sample(position) for position in positions] for positions in self.positions(step)]

    def _sample(self, position: int) -> int:
        epoch, index = divmod(position, self._size)
        if epoch != self._epoch:
            self._order = permutation(self._size, self._seed, epoch)
            self._epoch = epoch
        return self._order[index]


def permutation(size: int, seed: int, epoch: int) -> list[int]:
    """The order of one pass over the data."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order


def total_steps(size: int, batch: int, epochs: float | None, steps: int | None) -> int:
    """Optimizer steps of the whole training; the last may reach a little into the next pass, to be a full one."""
    if steps is not None:
        return steps
    return max(1, math.ceil((epochs or 0) * size / batch - 1e-9))


def ends_epoch(step: int, batch: int, size: int, every: int) -> bool:
    """Whether completing step number `step` (from 1) completes a multiple of `every` passes over the data."""
    return (step * batch) // (size * every) > ((step - 1) * batch) // (size * every)


def split_evenly(size: int, batch: int, data_rank: int, data_size: int) -> list[tuple[list[int], bool]]:
    """A rank's share of an evaluation: (sample numbers, whether they count).

    All ranks get equally many batches, because a ZeRO-3 forward pass is a joint act; a rank that has run out repeats
    sample 0, which does not count.
    """
    mine = list(range(data_rank, size, data_size))
    batches = [(mine[start : start + batch], True) for start in range(0, len(mine), batch)]
    wanted = math.ceil(math.ceil(size / data_size) / batch)
    return batches + [([0], False)] * (wanted - len(batches))
