"""The Plan: exactly what will run, as frozen data that is written to JSON and read back unchanged.

It holds no run id, no path made absolute and no time, so that the same plan can be run twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.foundation import formats
from orchestrator.plans.memory.types import Memory

MAKE_ONE = "Make one with: orchestrator plan ... --out plan.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshShape:
    """How the workers of one world size are arranged."""

    data: int
    tensor: int = 1
    pipeline: int = 1

    @property
    def world_size(self) -> int:
        """All workers."""
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What runs at one world size."""

    world_size: int
    mesh: MeshShape
    batch: int
    micro_batch: int
    accumulation: int
    deepspeed: dict[str, Any]
    """Complete DeepSpeed config of this world size."""
    memory: Memory | None = None
    """What each worker needs; None: the model was not measured."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        """Read plain data; raises KeyError or TypeError for anything else."""
        measured = {**data}.get("memory")
        parts = {"mesh": MeshShape(**data["mesh"]), "memory": Memory.from_dict(measured) if measured else None}
        return cls(**{**data, **parts})


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerResources:
    """What each worker is given."""

    cpus: float
    gpus: float
    threads: int
    memory: int = 0
    """Bytes; 0: none is reserved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """The workers on one node."""

    node: str
    workers: int
    gpu: str = ""
    """Name of the node's GPUs, if it has any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One configuration that was weighed for `strategy=auto` or `micro_batch=auto`."""

    strategy: str
    cost: float
    """Time of a step by the cost model, relative to ddp without accumulation."""
    verdict: str
    """`chosen`, or why not."""
    micro_batch: int | None = None
    accumulation: int | None = None
    device: int = 0
    """Bytes of GPU memory that a worker needs."""
    host: int = 0
    """Bytes of host memory that a worker needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will run. `rows` holds one row per admissible world size, smallest first."""

    format: int
    job: str
    task: str
    strategy: str
    precision: str
    seed: int
    rows: tuple[Row, ...]
    inadmissible: dict[str, str]
    """World sizes in the asked range that cannot run, each with the reason."""
    resources: WorkerResources
    nodes: int
    notes: tuple[str, ...]
    """What the person should know before it runs."""
    environment: dict[str, str]
    """Versions of the packages it was planned with."""
    spec: dict[str, Any]
    """The resolved config it was made from."""
    placement: tuple[Spot, ...] = ()
    """Where the workers of the preferred row go; empty when the cluster was not asked."""
    choices: tuple[Choice, ...] = ()
    """What was weighed, when something was left to choose."""

    @property
    def preferred(self) -> Row:
        """The row for the largest admissible world size."""
        return self.rows[-1]

    def row(self, world_size: int) -> Row:
        """The row for a world size, or an error that lists those there are."""
        for row in self.rows:
            if row.world_size == world_size:
                return row
        sizes = ", ".join(str(row.world_size) for row in self.rows)
        raise PlanError(f"The plan has no row for {world_size} workers.", f"It can run with: {sizes}.")

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return data

    def to_json(self) -> str:
        """As JSON text, the same for equal plans."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @property
    def digest(self) -> str:
        """Short fingerprint: equal plans have equal digests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, data: Any, source: str = "plan") -> Plan:
        """Read what `to_dict` wrote; anything else is refused with the reason."""
        if not isinstance(data, dict) or "format" not in data:
            found = "no format number" if isinstance(data, dict) else f"a {type(data).__name__}"
            raise PlanError(f"{source} is not a plan (found: {found}).", MAKE_ONE)
        formats.check("plan", source, data)
        fields = dict(data)
        try:
            fields["rows"] = tuple(Row.from_dict(row) for row in data["rows"])
            fields["resources"] = WorkerResources(**data["resources"])
            fields["notes"] = tuple(data["notes"])
            fields["placement"] = tuple(Spot(**spot) for spot in data.get("placement", ()))
            fields["choices"] = tuple(Choice(**choice) for choice in data.get("choices", ()))
            plan = cls(**fields)
        except (KeyError, TypeError) as error:
            raise PlanError(f"{source} is damaged: {error}.", MAKE_ONE) from error
        if not plan.rows:
            raise PlanError(f"{source} is damaged: it has no rows.", MAKE_ONE)
        return plan

    @classmethod
    def from_json(cls, text: str, source: str = "plan") -> Plan:
        """Read what `to_json` wrote."""
        try:
            return cls.from_dict(json.loads(text), source)
        except json.JSONDecodeError as error:
            raise PlanError(f"{source} is not JSON: {error}.", MAKE_ONE) from error
