"""Parts of layers, by hand. That they are DeepSpeed's own is held by tests/integration/plan/test_memory_shared.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.config.schema import Cluster, JobSpec, Mesh, Strategy, StrategyName
from orchestrator.errors import PlanError
from orchestrator.plans.memory import budget, estimate, tensor_layout
from orchestrator.plans.memory.profile_types import ModelProfile, Parameter
from tests.unit.plans.plan_specs import plan, spec


def parameter(layer: str, *shape: int, what: str = "weight", **more: Any) -> Parameter:
    numel = 1
    for size in shape:
        numel *= size
    return Parameter(name=f"{layer}.{what}", numel=numel, shape=shape, layer=layer, **more)


UP, UP_BIAS = parameter("blocks.0.up", 9, 4), parameter("blocks.0.up", 9, what="bias")
DOWN, DOWN_BIAS = parameter("blocks.0.down", 4, 9), parameter("blocks.0.down", 4, what="bias")
HEAD = parameter("lm_head", 11, 4, looked_up=True)
NORM = Parameter(name="blocks.0.norm.weight", numel=4, shape=(4,))
MODEL = ModelProfile(
    parameters=(UP, UP_BIAS, DOWN, DOWN_BIAS, NORM, HEAD),
    buffer_bytes=0,
    tensor_plan={"blocks.*.up": "colwise", "blocks.*.down": "rowwise", "lm_head": "colwise_rep"},
)


def shapes(profile: ModelProfile, section: dict[str, Any], tensor: int, index: int) -> list[tuple[int, ...]]:
    return [one.shape for one in tensor_layout.share(profile, section, tensor, index).parameters]


def shared(**deepspeed: Any) -> JobSpec:
    strategy = Strategy(name=StrategyName.zero1, deepspeed=deepspeed)
    return spec(strategy=strategy, mesh=Mesh(tensor=2), cluster=Cluster(workers=4))


def test_columns_are_cut_with_their_bias_and_rows_without() -> None:
    assert shapes(MODEL, {}, 2, 0) == [(5, 4), (5,), (4, 5), (4,), (4,), (11, 4)]
    assert shapes(MODEL, {}, 2, 1) == [(4, 4), (4,), (4, 4), (4,), (4,), (11, 4)]


def test_all_parts_together_are_the_whole() -> None:
    for tensor in (2, 3, 4):
        parts = [tensor_layout.share(MODEL, {}, tensor, index).parameters for index in range(tensor)]
        assert [sum(part[1].numel for part in parts), sum(part[2].numel for part in parts)] == [9, 36]


def test_a_gathered_head_is_cut_unless_it_is_an_embedding_too() -> None:
    untied = dataclasses.replace(HEAD, looked_up=False)
    alone = dataclasses.replace(MODEL, parameters=(untied,))
    assert shapes(alone, {}, 2, 0) == [(6, 4)]
    rows = dataclasses.replace(MODEL, parameters=(HEAD,), tensor_plan={"lm_head": "rowwise"})
    assert shapes(rows, {}, 2, 0) == [(11, 2)]


def test_attention_is_cut_between_heads() -> None:
    """Three key-value heads of two on two workers: 4 rows and 2."""
    attention = parameter("layers.0.self_attn.k_proj", 6, 4)
    grouped = dataclasses.replace(
        MODEL, parameters=(attention, UP), tensor_plan={"layers.*.k_proj": "colwise"}, kv_heads=3
    )
    assert shapes(grouped, {}, 2, 0)[0] == (4, 4)
    assert shapes(grouped, {}, 2, 1)[0] == (2, 4)
    assert [tensor_layout.shard(6, "layers.0.mlp.gate_proj", 3, 2, index) for index in (0, 1)] == [3, 3]
    assert [tensor_layout.shard(7, "layers.0.self_attn.k_proj", 3, 2, index) for index in (0, 1)] == [4, 3]


def test_the_first_rule_for_a_layer_holds() -> None:
    skipping = dataclasses.replace(
        MODEL, tensor_plan={"blocks.0.up": "replicated_with_grad_allreduce", **MODEL.tensor_plan}
    )
    assert shapes(skipping, {}, 2, 0)[:2] == [(9, 4), (9,)]


def test_the_persons_settings_come_before_what_the_model_says() -> None:
    section = {"partition_config": {"layer_specs": [{"patterns": [r".*\.up\.weight"], "partition_type": "row"}]}}
    assert shapes(MODEL, section, 2, 0) == [(9, 2), (9,), (4, 9), (4,), (4,), (11, 4)]


def test_ways_to_cut_that_are_not_counted_leave_layers_whole_and_say_so() -> None:
    fused = {"patterns": [".*up.*"], "partition_type": "column", "shape": [3, -1]}
    one = shared(tensor_parallel={"partition_config": {"layer_specs": [fused]}})
    row = plan(one).preferred
    needed = estimate.estimate(MODEL, one, row, on_gpu=False)
    assert needed.host.parameters >= 4 * sum(each.numel for each in MODEL.parameters)
    assert needed.notes == ("Memory is counted as if every worker held whole layers: an upper bound for this mesh.",)


def test_neighbours_hold_the_parts_of_one_copy() -> None:
    one = shared()
    ranks = estimate.per_rank(MODEL, one, plan(one).preferred, on_gpu=False)
    held = [rank.host.parameters for rank in ranks]
    assert held == [held[0], held[1], held[0], held[1]]
    assert held[0] > held[1]


def test_other_strategies_are_only_named_if_they_share_layers_too() -> None:
    one = shared()
    row = plan(one).preferred
    assert [name.value for name in budget.alternatives(MODEL, one, row, on_gpu=True)] == ["ddp", "zero1", "zero2"]


@pytest.mark.parametrize(
    ("tensor_plan", "message"),
    [
        ({}, "mesh.tensor=2 cannot share out this model: it does not say how its layers are to be cut."),
        ({"layers.*.up": "colwise"}, "mesh.tensor=2 finds nothing to share in this model"),
    ],
)
def test_a_model_that_cannot_be_shared_is_refused_in_the_plan(tensor_plan: dict[str, str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(shared(), profile=dataclasses.replace(MODEL, tensor_plan=tensor_plan))
