"""What a plan is made for: nodes and what they hold. Plain types, so that planning needs neither Ray nor torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU of a node."""

    name: str
    memory: int
    """Bytes."""
    capability: tuple[int, int] = (0, 0)
    """CUDA compute capability; bf16 needs 8.0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One host."""

    name: str
    cpus: int
    memory: int
    """Bytes."""
    gpus: tuple[Gpu, ...] = ()
    fast_bf16: bool = False
    """Whether the CPU computes bf16 in hardware (AMX or AVX512-BF16)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """The nodes there are. `known=False`: they are elsewhere and were not asked, so nothing is refused for them."""

    nodes: tuple[Node, ...] = field(default=())
    known: bool = True

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs of all nodes."""
        return tuple(gpu for node in self.nodes for gpu in node.gpus)

    @property
    def cpus(self) -> int:
        """All CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)
