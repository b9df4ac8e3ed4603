"""What a model weighs, as plain data: made by orchestrator.profile with torch, read by plans/memory without it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter of the model; a shared one counts once, under its first name."""

    name: str
    numel: int
    trainable: bool = True
    shape: tuple[int, ...] = ()
    """Only asked for where layers are cut (mesh.tensor)."""
    layer: str = ""
    """Name of the module whose matrix or bias it is; empty: of none that could be cut."""
    looked_up: bool = False
    """Whether it is an embedding's as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """What one forward and backward pass holds at its fullest moment, beyond parameters, gradients and its batch."""

    micro_batch: int
    bytes: int
    batch_bytes: int
    """The micro-batch itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelProfile:
    """Sizes of a model, in the precision and with the checkpointing of one spec."""

    parameters: tuple[Parameter, ...]
    """In the model's own order."""
    buffer_bytes: int
    activations: tuple[Activations, ...] = ()
    """One or two measured micro-batches, smallest first; none: unknown."""
    notes: tuple[str, ...] = ()
    """What could not be found out, and why."""
    tensor_plan: dict[str, str] = field(default_factory=dict)
    """How the model says its layers can be cut: its `_tp_plan`."""
    kv_heads: int = 0
    """Attention heads between which layers are cut; 0: the model does not say."""

    def groups(self, no_decay: Collection[str]) -> list[list[int]]:
        """Sizes of the trainable parameters in the optimizer's groups: decayed ones, then those in no_decay.

        Empty parameters are left out, as DeepSpeed leaves them out.
        """
        decayed: list[int] = []
        exempt: list[int] = []
        for parameter in self.parameters:
            if parameter.trainable and parameter.numel:
                group = exempt if any(part in parameter.name for part in no_decay) else decayed
                group.append(parameter.numel)
        return [group for group in (decayed, exempt) if group]

    def activation_bytes(self, micro_batch: int) -> int | None:
        """Activations of a micro-batch, on the line through the measured ones; None: unknown."""
        return self._along([(point.micro_batch, point.bytes) for point in self.activations], micro_batch)

    def batch_bytes(self, micro_batch: int) -> int:
        """Bytes of a micro-batch of data; 0: unknown."""
        return self._along([(point.micro_batch, point.batch_bytes) for point in self.activations], micro_batch) or 0

    @staticmethod
    def _along(points: list[tuple[int, int]], micro_batch: int) -> int | None:
        if not points:
            return None
        (low, low_bytes), (high, high_bytes) = points[0], points[-1]
        if low == high:
            return low_bytes * micro_batch // low
        slope = (high_bytes - low_bytes) / (high - low)
        return max(0, round(low_bytes + slope * (micro_batch - low)))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelProfile:
        """Read what `to_dict` wrote; raises KeyError or TypeError for anything else."""
        return cls(
            parameters=tuple(
                Parameter(**{**parameter, "shape": tuple(parameter["shape"])}) for parameter in data["parameters"]
            ),
            buffer_bytes=data["buffer_bytes"],
            activations=tuple(Activations(**point) for point in data["activations"]),
            notes=tuple(data["notes"]),
            tensor_plan=data["tensor_plan"],
            kv_heads=data["kv_heads"],
        )
