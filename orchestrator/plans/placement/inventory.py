"""What a plan is made for: nodes and what they hold. Plain types, so that planning needs neither Ray nor torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU of a node."""

    name: str
    memory: int
    """Bytes; 0: not known."""
    capability: tuple[int, int] = (0, 0)
    """CUDA compute capability; bf16 needs 8.0. (0, 0): not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Free:
    """What nobody uses at the moment."""

    cpus: float
    gpus: float
    memory: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One host, with all that it has."""

    name: str
    """Unique in its inventory."""
    cpus: float
    memory: int
    """Bytes."""
    gpus: tuple[Gpu, ...] = ()
    fast_bf16: bool | None = False
    """Whether the CPU computes bf16 in hardware (AMX or AVX512-BF16); None: not known."""
    labels: dict[str, str] = field(default_factory=dict)
    """Ray's labels."""
    free: Free | None = None
    """What is free of it now; None: all of it, or nobody knows better."""
    id: str = ""
    """Ray's id of a live node."""
    nvme_lacks: tuple[str, ...] | None = None
    """What is missing on it to compile DeepSpeed's way to a disk (zero3_nvme); None: not known."""

    @property
    def gpu_kind(self) -> str:
        """Name of its GPUs; of a mixed node all names; empty without GPUs."""
        return ", ".join(sorted({gpu.name for gpu in self.gpus}))

    @property
    def all(self) -> Free:
        """What it has when nobody uses it."""
        return Free(cpus=self.cpus, gpus=float(len(self.gpus)), memory=self.memory)

    @property
    def now(self) -> Free:
        """What is free of it now."""
        return self.free or self.all


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """The nodes there are. `known=False`: they are elsewhere and were not asked, so nothing is refused for them."""

    nodes: tuple[Node, ...] = field(default=())
    known: bool = True
    note: str = ""
    """Why it is not known."""

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs of all nodes."""
        return tuple(gpu for node in self.nodes for gpu in node.gpus)

    @property
    def cpus(self) -> float:
        """All CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)
