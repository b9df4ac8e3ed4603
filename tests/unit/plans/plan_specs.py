"""Specs, machines and plans to test with. Built directly, so that these tests need no conf/ folder."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any

from orchestrator.config.schema import (
    EXPLICIT_STRATEGIES,
    Cluster,
    Job,
    JobSpec,
    Mesh,
    Optimizer,
    OptimizerName,
    Precision,
    PrecisionName,
    Schedule,
    ScheduleName,
    Strategy,
    StrategyName,
)
from orchestrator.plans.make import make
from orchestrator.plans.placement.inventory import Gpu, Inventory, Node
from orchestrator.plans.types import Plan

GOLDEN = Path(__file__).parent / "golden"
ENVIRONMENT = {"python": "3.11.0", "deepspeed": "0.19.8", "torch": "2.13.0"}
A100 = Gpu(name="A100", memory=80 << 30, capability=(8, 0))
V100 = Gpu(name="V100", memory=32 << 30, capability=(7, 0))


def machine(*, cpus: int = 8, gpus: tuple[Gpu, ...] = (), fast_bf16: bool = False) -> Inventory:
    """One host."""
    return Inventory(nodes=(Node(name="host", cpus=cpus, memory=16 << 30, gpus=gpus, fast_bf16=fast_bf16),))


def spec(**parts: Any) -> JobSpec:
    """A spec that can be planned; give what matters to the test."""
    given: dict[str, Any] = {"job": Job(name="demo", task="jobs.demo:Demo", steps=100), "batch": 64}
    return JobSpec(**{**given, **parts})


def plan(wanted: JobSpec, inventory: Inventory | None = None, **options: Any) -> Plan:
    """The spec's plan, on an 8-CPU host unless told otherwise."""
    resolved = json.loads(json.dumps(dataclasses.asdict(wanted), default=_enum_value))
    resolved.pop("sweep")  # which is no part of a training
    given: dict[str, Any] = {"environment": ENVIRONMENT, "shared_storage": False}
    return make(resolved, wanted, inventory or machine(), **{**given, **options})


def _enum_value(value: object) -> object:
    assert isinstance(value, Enum)
    return value.value


def golden_plans() -> dict[str, Plan]:
    """Every plan that a golden file pins, by the file's name."""
    plans = {
        name.value: plan(
            spec(
                strategy=Strategy(name=name, nvme_path="/nvme" if name is StrategyName.zero3_nvme else None),
                optimizer=Optimizer(lr=0.001, weight_decay=0.01, no_decay=["bias"]),
                schedule=Schedule(name=ScheduleName.cosine, warmup_fraction=0.1),
                cluster=Cluster(workers=2),
                micro_batch=16,
            )
        )
        for name in EXPLICIT_STRATEGIES
    }
    plans["gpu_fp16_sgd_zero3_offload"] = plan(
        spec(
            job=Job(name="demo", task="jobs.demo:Demo", epochs=3, clip=1.0),
            strategy=Strategy(name=StrategyName.zero3_offload),
            optimizer=Optimizer(name=OptimizerName.sgd, lr=0.1, momentum=0.9, nesterov=True),
            precision=Precision(name=PrecisionName.fp16, initial_scale_power=12),
            cluster=Cluster(workers=2),
        ),
        machine(gpus=(V100, V100)),
    )
    plans["gpu_bf16_adam_ddp"] = plan(
        spec(
            optimizer=Optimizer(name=OptimizerName.adam, lr=0.001, betas=[0.9, 0.95], eps=1e-6),
            precision=Precision(name=PrecisionName.bf16),
        ),
        machine(gpus=(A100,)),
    )
    plans["tensor_zero1"] = plan(
        spec(strategy=Strategy(name=StrategyName.zero1), mesh=Mesh(tensor=2), cluster=Cluster(workers=4), micro_batch=8)
    )
    plans["range_own_json"] = plan(
        spec(
            strategy=Strategy(
                name=StrategyName.zero2,
                deepspeed_file="own.json",
                deepspeed={"zero_optimization": {"reduce_bucket_size": 1_000_000}},
            ),
            cluster=Cluster(workers="2..8"),
            batch=60,
            micro_batch=4,
        ),
        project=Path(__file__).parent,
    )
    return plans
