"""The memory one worker needs, as plain data that a plan keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Bytes that one worker holds in one place.

    The first four are there at rest, with gradients as they are after the last backward pass of a window, just before
    the optimizer's step. The next three come on top while a backward pass runs; `update` comes on top when the
    activations are gone: while gradients are reduced and the optimizer steps. `saving` is always there beside them,
    and `start` stands alone.
    """

    parameters: int = 0
    """In the format that is computed with; with ZeRO 3 this worker's part, and small parameters whole."""
    gradients: int = 0
    """After the last backward pass of a window."""
    optimizer: int = 0
    """After the first step: fp32 master weights, moments, step counters."""
    buffers: int = 0
    """The model's own buffers, such as running statistics."""
    communication: int = 0
    """During the backward pass: buckets, gradients not yet reduced, parameters gathered by ZeRO 3."""
    activations: int = 0
    """The fullest moment of forward and backward; 0 when unknown."""
    batches: int = 0
    """Data: on the host also the windows made ahead."""
    update: int = 0
    """While gradients are reduced and the optimizer steps."""
    saving: int = 0
    """From the first checkpoint on: the copy that is written beside training (checkpoint.asynchronous)."""
    start: int = 0
    """All of it while the model is built and handed to DeepSpeed, whole and in fp32."""

    @property
    def resident(self) -> int:
        """What never goes away, with gradients at their fullest."""
        return self.parameters + self.gradients + self.optimizer + self.buffers

    @property
    def peak(self) -> int:
        """The fullest moment of a run."""
        backward = self.communication + self.activations + self.batches
        return max(self.start, self.resident + self.saving + max(backward, self.update + self.batches))

    def __add__(self, other: Held) -> Held:
        return Held(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Held)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bytes there are for each worker, where that is least; 0: not known."""

    device: int = 0
    device_name: str = ""
    host: int = 0


UNKNOWN = Limits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What the fullest worker needs. Without a GPU `device` is empty and all is in `host`."""

    device: Held
    host: Held
    padding: int = 0
    """Bytes among parameters, gradients and optimizer that only fill up to equal parts."""
    activations_known: bool = True
    """Whether the activations were found out; if not, the sum is a lower bound."""
    notes: tuple[str, ...] = ()
    """What the figures leave out for this plan."""
    limits: Limits = UNKNOWN

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Memory:
        """Read plain data; raises KeyError or TypeError for anything else."""
        parts = {"device": Held(**data["device"]), "host": Held(**data["host"]), "limits": Limits(**data["limits"])}
        return cls(**{**data, **parts, "notes": tuple(data["notes"])})
