"""A plan for tests of what becomes of runs: nothing of it is ever trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.foundation.formats import FORMAT
from orchestrator.plans.types import MeshShape, Plan, Row, WorkerResources


def plan_with(storage: Path | str, spec: dict[str, Any], deepspeed: dict[str, Any] | None = None) -> Plan:
    """Two workers under ZeRO 2, with this config."""
    row = Row(
        world_size=2,
        mesh=MeshShape(data=2),
        batch=64,
        micro_batch=32,
        accumulation=1,
        deepspeed=deepspeed or {},
    )
    return Plan(
        format=FORMAT,
        job="digits",
        task="orchestrator.jobs.image_classification:ImageClassification",
        strategy="zero2",
        precision="fp32",
        seed=7,
        rows=(row,),
        inadmissible={},
        resources=WorkerResources(cpus=1, gpus=0, threads=1),
        nodes=1,
        notes=(),
        environment={},
        spec={**spec, "storage": {"path": str(storage)}},
    )
