"""With mesh.tensor, too, the planned memory is what each rank holds, to the byte."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.config.schema import Cluster, Job, Mesh, PrecisionName, StrategyName
from orchestrator.plans.memory import estimate
from orchestrator.plans.types import Plan
from orchestrator.profile.model import profile_model
from orchestrator.runtime.worker.engine import prepare
from tests.integration.plan.memory_probe import task_of
from tests.integration.plan.test_memory_held import assert_held, measured, plan, spec
from tests.integration.train.test_tensor_parallel import GPT
from tests.integration.training import plan_of, spec_of

pytestmark = pytest.mark.matrix(4)

fp32, bf16 = PrecisionName.fp32, PrecisionName.bf16
CASES = [
    (StrategyName.ddp, fp32),
    (StrategyName.zero1, fp32),
    (StrategyName.zero1, bf16),
    (StrategyName.zero2, fp32),
    (StrategyName.zero2, bf16),
]
SPECS = [
    {"patterns": [r".*up\.weight"], "partition_type": "column"},
    {"patterns": [r"down\..*"], "partition_type": "row"},
]
OWN_WAY = {"tensor_parallel": {"partition_config": {"use_default_specs": False, "layer_specs": SPECS}}}
"""The person's settings instead of what the model says: the head stays whole."""


def uneven(workers: int) -> dict[str, Plan]:
    """A small model with sizes that divide by nothing, under every strategy that goes together with mesh.tensor."""
    shared = {
        "job": Job(name="shared", task="tests.integration.plan.memory_probe:Sums", steps=2),
        "mesh": Mesh(tensor=2),
        "cluster": Cluster(workers=workers),
    }
    specs = {f"{strategy.value}-{format.value}": spec(strategy, format) for strategy, format in CASES}
    specs["own-way"] = spec(StrategyName.zero1, fp32, deepspeed=OWN_WAY)
    return {name: plan(dataclasses.replace(one, **shared)) for name, one in specs.items()}


def gpt() -> dict[str, Plan]:
    """The Task that is shipped."""
    few = ["cluster.workers=2", "job.steps=2", "accumulation=2"]
    return {
        f"gpt-{strategy.value}-{format.value}": plan_of(
            *GPT, *few, f"strategy={strategy.value}", f"precision={format.value}"
        )
        for strategy, format in CASES
    }


PLANS = {2: {**uneven(2), **gpt()}, 4: uneven(4)}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank held under each plan, by the number of workers."""
    return {
        workers: measured(tmp_path_factory.mktemp("run"), "measure", plans, workers) for workers, plans in PLANS.items()
    }


@pytest.mark.parametrize(("workers", "name"), [(workers, name) for workers, plans in PLANS.items() for name in plans])
def test_every_rank_holds_what_is_planned(
    workers: int, name: str, held: dict[int, list[dict[str, dict[str, int]]]]
) -> None:
    made = PLANS[workers][name]
    row, wanted = made.preferred, spec_of(made)
    profile = profile_model(task_of(made), wanted, [row.micro_batch], prepare)
    planned = estimate.per_rank(profile, wanted, row, on_gpu=False)
    assert_held(planned, [rank[name] for rank in held[workers]])
    fullest = estimate.estimate(profile, wanted, row, on_gpu=False)
    assert fullest.host.peak == max(each.host.peak for each in planned)
    note = "Activations are counted as if every worker held whole layers: an upper bound for this mesh."
    assert note in fullest.notes
