"""How DeepSpeed 0.19 lays parameters out over data-parallel ranks: alignment, partitions, what each rank owns of what.

Numbers of elements, not bytes. Every rule here is read from DeepSpeed's source, named beside it, and held against it by
tests/integration/plan/test_memory_held.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

ALIGNMENT = 2
"""stage_1_and_2.py, `nccl_start_alignment_factor`: a group is padded to a multiple of this times the ranks."""


LEAST_SWAPPED = 2**20
"""swap_tensor/utils.py, `MIN_AIO_BYTES`, and the default block size: bytes from which tensors go to a disk."""
SWAP_ALIGNMENT = 256
"""`AIO_ALIGNED_BYTES`, in fp32 numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatGroup:
    """One optimizer group of ZeRO 1 and 2: its parameters end to end, padded, cut into equal parts."""

    numels: tuple[int, ...]
    ranks: int

    @property
    def numel(self) -> int:
        """Without padding."""
        return sum(self.numels)

    @property
    def aligned(self) -> int:
        """With padding."""
        return round_up(self.numel, ALIGNMENT * self.ranks)

    @property
    def partition(self) -> int:
        """Elements that each rank optimizes, padding included."""
        return self.aligned // self.ranks

    def touched(self, rank: int) -> int:
        """Elements of all parameters that a rank owns any part of (`get_partition_info`)."""
        start, end = rank * self.partition, (rank + 1) * self.partition
        offsets = accumulate(self.numels, initial=0)
        return sum(
            numel
            for offset, numel in zip(offsets, self.numels, strict=False)
            if offset < end and offset + numel > start
        )

    def fill(self, rank: int) -> int:
        """Zeros that a rank's gradients are filled up with to a whole partition (`get_flat_partition`)."""
        return min(self.partition, max(0, (rank + 1) * self.partition - self.numel))


def flat_groups(groups: Iterable[Sequence[int]], ranks: int) -> list[FlatGroup]:
    """The groups of ZeRO 1 and 2."""
    return [FlatGroup(numels=tuple(group), ranks=ranks) for group in groups]


def gradient_elements(groups: Sequence[FlatGroup], rank: int) -> int:
    """What a rank holds of gradients before the step with ZeRO 1 and 2.

    Whole gradients of every parameter it owns a part of (`copy_grads_in_partition`), and the zeros at the end.
    """
    return sum(group.touched(rank) + group.fill(rank) for group in groups)


def partition(numel: int, ranks: int) -> int:
    """A rank's part of one parameter with ZeRO 3 (`_partition_param`)."""
    return math.ceil(numel / ranks)


def sub_groups(group: Sequence[int], ranks: int, size: int) -> list[list[int]]:
    """The parameters that ZeRO 3 steps together, one such piece after the other (`_create_fp16_sub_groups`)."""
    pieces: list[list[int]] = [[]]
    held = 0
    for numel in group:
        if held >= size:
            pieces.append([])
            held = 0
        pieces[-1].append(numel)
        held += partition(numel, ranks)
    return pieces


def is_swapped(numel: int) -> bool:
    """Whether fp32 numbers are enough to be kept on a disk (`OptimizerSwapper.is_swappable_tensor`)."""
    return 4 * numel >= LEAST_SWAPPED


def keeps_gradient(part: int) -> bool:
    """Whether a swapped gradient is in memory after all: small ones are, and those with a rest (`_swap_out_gradients`).

    A rest that does not fill a block is a view, and holds on to all of the gradient.
    """
    return not is_swapped(part) or part % SWAP_ALIGNMENT != 0


def persistent(numels: Iterable[int], threshold: int, limit: int) -> list[int]:
    """Parameters that ZeRO 3 keeps whole on every rank (`mark_persistent_parameters`)."""
    kept: list[int] = []
    total = 0
    for numel in numels:
        if numel <= threshold and total + numel <= limit:
            kept.append(numel)
            total += numel
    return kept


def reduce_buckets(numels: Iterable[int], limit: int) -> list[int]:
    """Elements flattened together when plain data parallelism reduces gradients (`allreduce_no_retain`)."""
    buckets: list[int] = []
    current = 0
    for numel in numels:
        current += numel
        if current > limit:
            buckets.append(current)
            current = 0
    return [*buckets, current] if current else buckets


def round_up(number: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-number // unit) * unit
