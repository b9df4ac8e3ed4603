"""The planned memory is what DeepSpeed's ranks hold, to the byte."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import (
    EXPLICIT_STRATEGIES,
    Checkpoint,
    Cluster,
    Job,
    JobSpec,
    Optimizer,
    OptimizerName,
    Precision,
    PrecisionName,
    Strategy,
    StrategyName,
)
from orchestrator.plans.make import make
from orchestrator.plans.memory import estimate as memory
from orchestrator.plans.memory.profile_types import ModelProfile
from orchestrator.plans.memory.types import Memory
from orchestrator.plans.placement.inventory import Inventory, Node
from orchestrator.plans.types import Plan, WorkerResources
from orchestrator.profile import layers
from orchestrator.profile.model import profile_model
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from orchestrator.runtime.worker.context import Launch
from orchestrator.runtime.worker.engine import prepare
from tests.integration.plan.memory_probe import Odd, wide_task

pytestmark = pytest.mark.matrix(4)

REPOSITORY = Path(__file__).parents[3]
MACHINE = Inventory(nodes=(Node(name="test", cpus=2, memory=8 * 2**30),))
ADAMW = Optimizer(weight_decay=0.01, no_decay=["bias", "norm"])
MOMENTUM = Optimizer(name=OptimizerName.sgd, momentum=0.9, no_decay=["bias"])
PLAIN_SGD = Optimizer(name=OptimizerName.sgd)
IN_MEMORY = [name for name in EXPLICIT_STRATEGIES if name is not StrategyName.zero3_nvme]
SUB_GROUPS = {"zero_optimization": {"sub_group_size": 40}}


def specs() -> dict[str, JobSpec]:
    """Every strategy in fp32 and bf16 with AdamW and accumulation; then what is different with other settings."""
    wanted = {
        f"{strategy.value}-{precision.value}": spec(strategy, precision)
        for strategy in IN_MEMORY
        for precision in (PrecisionName.fp32, PrecisionName.bf16)
    }
    for strategy in IN_MEMORY:
        wanted[f"{strategy.value}-momentum"] = spec(strategy, PrecisionName.bf16, optimizer=MOMENTUM, accumulation=1)
    wanted["ddp-sgd"] = spec(StrategyName.ddp, PrecisionName.fp32, optimizer=PLAIN_SGD)
    wanted["zero1-sgd"] = spec(StrategyName.zero1, PrecisionName.fp32, optimizer=PLAIN_SGD)
    wanted["zero3-sub_groups"] = spec(StrategyName.zero3, PrecisionName.fp32, deepspeed=SUB_GROUPS)
    return wanted


def spec(
    strategy: StrategyName,
    precision: PrecisionName,
    *,
    optimizer: Optimizer = ADAMW,
    accumulation: int = 2,
    deepspeed: dict[str, Any] | None = None,
) -> JobSpec:
    return JobSpec(
        job=Job(name="memory", task="tests.integration.plan.memory_probe:Sums", steps=2),
        strategy=Strategy(name=strategy, reduce_bucket_size=60, persistence_threshold=20, deepspeed=deepspeed or {}),
        precision=Precision(name=precision),
        optimizer=optimizer,
        cluster=Cluster(workers=2),
        micro_batch=3,
        accumulation=accumulation,
        checkpoint=Checkpoint(asynchronous=False),
    )


def plan(wanted: JobSpec) -> Plan:
    def plain(value: object) -> object:
        assert isinstance(value, Enum)
        return value.value

    resolved = json.loads(json.dumps(dataclasses.asdict(wanted), default=plain))
    return make(resolved, wanted, MACHINE, environment={}, shared_storage=False)


SPECS = specs()
PLANS = {name: plan(wanted) for name, wanted in SPECS.items()}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, int]]]:
    """What each rank held under each plan."""
    return measured(tmp_path_factory.mktemp("run"), "measure", PLANS)


def measured(
    root: Path, entry: str, plans: dict[str, Plan], workers: int = 2, timeout_s: float = 240
) -> list[dict[str, Any]]:
    """What an entry of memory_probe wrote down on each worker: all plans in one launch."""
    launch = Launch(
        run_id="memory",
        attempt=1,
        root=str(root),
        project=str(REPOSITORY),
        world_size=workers,
        plan={"plans": {name: made.to_dict() for name, made in plans.items()}},
        entry=f"tests.integration.plan.memory_probe:{entry}",
    )
    launcher = TorchrunLauncher()
    launcher.start(launch, WorkerResources(cpus=1, gpus=0, threads=1))
    try:
        deadline = time.monotonic() + timeout_s
        while (ended := launcher.poll()) is None:
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.1)
        assert not ended.error, "".join(log.read_text()[-3000:] for log in root.rglob("*.log"))
    finally:
        launcher.close()
    return [json.loads((root / f"held-{rank}.json").read_text()) for rank in range(workers)]


def profile() -> ModelProfile:
    model = Odd()
    return ModelProfile(
        parameters=layers.parameters(model),
        buffer_bytes=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
    )


@pytest.mark.parametrize("name", SPECS)
def test_every_rank_holds_what_is_planned(name: str, held: list[dict[str, dict[str, int]]]) -> None:
    planned = memory.per_rank(profile(), SPECS[name], PLANS[name].preferred, on_gpu=False)
    assert_held(planned, [rank[name] for rank in held])


def assert_held(planned: Sequence[Memory], held: Sequence[dict[str, int]]) -> None:
    """Parameters, gradients and optimizer states of every rank, to the byte."""
    assert len(planned) == len(held)
    for rank, (estimate, all_of_it) in enumerate(zip(planned, held, strict=True)):
        counted = {kind: all_of_it[kind] for kind in ("parameters", "gradients", "optimizer")}
        expected = {kind: getattr(estimate.host, kind) for kind in counted}
        assert counted == expected, f"rank {rank}"


@pytest.mark.parametrize("name", [name for name in SPECS if name.startswith("zero3")])
def test_zero_3_holds_a_small_model_whole_between_forward_and_backward(
    name: str, held: list[dict[str, dict[str, int]]]
) -> None:
    """DeepSpeed lets go of no parameter that it will use again within its reuse distance of 1e9 elements."""
    large = sum(one.numel for one in profile().parameters if one.trainable and one.numel > 20)
    element = memory.BYTES[SPECS[name].precision.name]
    assert held[0][name]["turning"] == held[0][name]["parameters"] + element * large


@pytest.mark.parametrize("name", SPECS)
def test_nothing_else_of_weight_is_held_between_steps(name: str, held: list[dict[str, dict[str, int]]]) -> None:
    """Whatever Python can reach after a step is within what is planned for the step."""
    planned = memory.per_rank(profile(), SPECS[name], PLANS[name].preferred, on_gpu=False)
    for rank, estimate in enumerate(planned):
        slack = 512  # scalars: losses, norms, flags
        assert held[rank][name]["live"] <= estimate.host.peak + slack


def test_the_fullest_moment_is_nearly_met(tmp_path: Path) -> None:
    """Activations, buckets and temporaries included, on a model where all of them weigh something."""
    wide = {
        name.value: dataclasses.replace(
            spec(name, PrecisionName.fp32),
            micro_batch=256,
            strategy=Strategy(name=name, reduce_bucket_size=100_000, persistence_threshold=1000),
        )
        for name in IN_MEMORY
    }
    plans = {name: plan(one) for name, one in wide.items()}
    peaks = measured(tmp_path, "measure_peaks", plans)
    profiled = profile_model(wide_task(), wide["ddp"], [256], prepare)
    # Nothing is made ahead or saved here, as the training loop does.
    ahead = (wide["ddp"].job.loader.ahead + memory.WINDOWS_BESIDE) * 2 * profiled.batch_bytes(256)
    for name, one in wide.items():
        planned = memory.per_rank(profiled, one, plans[name].preferred, on_gpu=False)
        ratios = [(each.host.peak - ahead) / peaks[rank][name] for rank, each in enumerate(planned)]
        assert all(0.9 < ratio < 1.25 for ratio in ratios), f"{name}: {ratios}"
