"""Memory by hand: the figures everybody knows, what depends on what, and what a plan says about it.

That the figures are DeepSpeed's own is held by tests/integration/plan/test_memory_held.py.
"""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.config.schema import (
    EXPLICIT_STRATEGIES,
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
from orchestrator.plans.deepspeed import ds_config
from orchestrator.plans.memory import budget, estimate, zero_layout
from orchestrator.plans.memory.profile_types import Activations, ModelProfile, Parameter
from orchestrator.plans.memory.types import Held, Memory
from orchestrator.plans.placement.inventory import Gpu
from orchestrator.plans.types import Plan
from tests.unit.plans.plan_specs import machine, plan, spec

GIB = 2**30
LAYERS = 64
NUMEL = 2**24
TOTAL = LAYERS * NUMEL  # 2**30 parameters
H100 = Gpu(name="H100", memory=80 * GIB, capability=(9, 0))
SMALL = Gpu(name="Small", memory=10 * GIB, capability=(8, 0))
NVME = Strategy(name=StrategyName.zero3_nvme, nvme_path="/nvme")
MODEL = ModelProfile(
    parameters=tuple(Parameter(name=f"layers.{number}.weight", numel=NUMEL) for number in range(LAYERS)),
    buffer_bytes=0,
    activations=(
        Activations(micro_batch=4, bytes=5 * GIB, batch_bytes=400),
        Activations(micro_batch=8, bytes=9 * GIB, batch_bytes=800),
    ),
)


def wanted(strategy: StrategyName | Strategy, workers: int = 8, **parts: object) -> JobSpec:
    given = {
        "strategy": strategy if isinstance(strategy, Strategy) else Strategy(name=strategy),
        "precision": Precision(name=PrecisionName.bf16),
        "cluster": Cluster(workers=workers),
        "batch": 8 * workers,
    }
    return spec(**{**given, **parts})


def needed(one: JobSpec, profile: ModelProfile = MODEL) -> Memory:
    workers = one.cluster.workers
    row = plan(one, machine(gpus=(H100,) * workers)).preferred
    return estimate.estimate(profile, one, row, on_gpu=True)


@pytest.mark.parametrize(
    ("strategy", "parameters", "gradients", "optimizer"),
    [
        (StrategyName.ddp, 2, 2, 12),
        (StrategyName.zero1, 2, 2 / 8, 12 / 8),
        (StrategyName.zero2, 2, 2 / 8, 12 / 8),
        (StrategyName.zero3, 2 / 8, 2 / 8, 12 / 8),
        (StrategyName.zero2_offload, 2, 0, 0),
        (StrategyName.zero3_offload, 0, 0, 0),
    ],
)
def test_mixed_precision_adam_takes_16_bytes_a_parameter_shared_as_zero_says(
    strategy: StrategyName, parameters: float, gradients: float, optimizer: float
) -> None:
    held = needed(wanted(strategy)).device
    assert (held.parameters, held.gradients, held.optimizer) == (
        parameters * TOTAL,
        gradients * TOTAL,
        optimizer * TOTAL,
    )


def test_offloaded_states_are_on_the_host() -> None:
    host = needed(wanted(StrategyName.zero3_offload)).host
    assert host.parameters == 2 * TOTAL / 8
    assert host.gradients == (2 + 4) * TOTAL / 8
    assert host.optimizer == 12 * TOTAL / 8 + 4


def test_on_a_disk_are_states_and_gradients_and_in_memory_the_buffers_to_it() -> None:
    """Of 64 layers 48 are brought in at once: their parts are the first to be 100 million numbers or more."""
    swapped = needed(wanted(NVME)).host
    offloaded = needed(wanted(StrategyName.zero3_offload)).host
    assert swapped.parameters == offloaded.parameters
    assert swapped.gradients == 2 * TOTAL / 8
    assert swapped.optimizer == 4 * 2, "two groups' step counters"
    buffers = 4 * ds_config.NVME_BUFFERS * 48 * NUMEL / 8
    assert swapped.communication - offloaded.communication == buffers
    assert needed(wanted(NVME)).notes == ("Each worker keeps 2 GiB in files in strategy.nvme_path.",)


def test_what_is_too_small_for_the_disk_stays_in_memory() -> None:
    small = tuple(
        dataclasses.replace(one, numel=numel) for one, numel in zip(MODEL.parameters, (8000, 90), strict=False)
    )
    model = dataclasses.replace(MODEL, parameters=small)
    swapped, offloaded = (needed(wanted(name), model).host for name in (NVME, StrategyName.zero3_offload))
    assert (swapped.gradients, swapped.optimizer) == (offloaded.gradients, offloaded.optimizer)
    assert not needed(wanted(NVME), model).notes


def test_gradients_that_do_not_fill_blocks_stay_in_memory() -> None:
    odd = (dataclasses.replace(MODEL.parameters[0], numel=NUMEL - 8), MODEL.parameters[1])
    one = dataclasses.replace(MODEL, parameters=odd)
    held = needed(wanted(NVME), one).host
    owned = 2 * NUMEL // 8 - 1
    assert held.gradients == 2 * owned + 4 * (NUMEL // 8 - 1)
    exact = needed(wanted(NVME, precision=Precision()), one).host
    assert exact.gradients == 4 * owned


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"),
    [
        (Optimizer(), 12),
        (Optimizer(name=OptimizerName.adam), 12),
        (Optimizer(name=OptimizerName.sgd), 4),
        (Optimizer(name=OptimizerName.sgd, momentum=0.9), 8),
    ],
)
def test_optimizers_keep_different_states(optimizer: Optimizer, bytes_each: int) -> None:
    assert needed(wanted(StrategyName.ddp, optimizer=optimizer)).device.optimizer == bytes_each * TOTAL


def test_fp32_needs_no_second_copy_without_zero() -> None:
    held = needed(wanted(StrategyName.ddp, precision=Precision())).device
    assert (held.parameters, held.gradients, held.optimizer) == (4 * TOTAL, 4 * TOTAL, 8 * TOTAL)


def test_overlap_takes_a_second_bucket() -> None:
    buckets = [needed(wanted(Strategy(name=StrategyName.zero1, overlap_comm=overlap))) for overlap in (False, True)]
    assert buckets[1].device.communication - buckets[0].device.communication == 2 * 50_000_000


def test_zero_3_gathers_what_it_will_reuse() -> None:
    """With DeepSpeed's reuse distance of 1e9, a model of 1e9 parameters is nearly half there at the turn."""
    near = {"zero_optimization": {"stage3_max_reuse_distance": 0}}
    far, close = (needed(wanted(Strategy(name=StrategyName.zero3, deepspeed=own))).device for own in ({}, near))
    assert far.communication - close.communication == 2 * 500_000_000


def test_the_whole_model_in_fp32_is_on_the_device_at_the_start() -> None:
    held = needed(wanted(StrategyName.zero3_offload)).device
    assert held.start == 4 * TOTAL
    assert held.peak >= held.start


def test_activations_lie_on_the_line_through_the_measured_ones() -> None:
    assert [MODEL.activation_bytes(size) for size in (2, 4, 6, 8, 16)] == [n * GIB for n in (3, 5, 7, 9, 17)]
    one = dataclasses.replace(MODEL, activations=MODEL.activations[:1])
    assert one.activation_bytes(8) == 10 * GIB
    assert dataclasses.replace(MODEL, activations=()).activation_bytes(8) is None


def test_unknown_activations_are_said_to_be() -> None:
    known = needed(wanted(StrategyName.ddp), dataclasses.replace(MODEL, activations=(), notes=("no forward",)))
    assert not known.activations_known
    assert known.notes == ("no forward",)


def test_frozen_models_have_no_states() -> None:
    frozen = tuple(dataclasses.replace(parameter, trainable=False) for parameter in MODEL.parameters)
    held = needed(wanted(StrategyName.ddp), dataclasses.replace(MODEL, parameters=frozen)).device
    assert (held.parameters, held.gradients, held.optimizer) == (2 * TOTAL, 0, 0)


def test_profiles_and_memory_survive_json() -> None:
    assert ModelProfile.from_dict(MODEL.to_dict()) == MODEL
    one = wanted(StrategyName.zero2, 2)
    made = plan(one, machine(gpus=(H100, H100)), profile=MODEL)
    assert made.preferred.memory
    assert Plan.from_json(made.to_json()) == made


def test_ranks_of_a_flat_group() -> None:
    group = zero_layout.FlatGroup(numels=(5, 1, 6), ranks=3)
    assert (group.numel, group.aligned, group.partition) == (12, 12, 4)
    assert [group.touched(rank) for rank in range(3)] == [5, 12, 6]
    assert [group.fill(rank) for rank in range(3)] == [0, 0, 0]
    odd = zero_layout.FlatGroup(numels=(3,), ranks=4)
    assert (odd.aligned, odd.partition) == (8, 2)
    assert [odd.touched(rank) for rank in range(4)] == [3, 3, 0, 0]
    assert [odd.fill(rank) for rank in range(4)] == [0, 1, 2, 2]


def test_pieces() -> None:
    assert zero_layout.sub_groups([10, 10, 10], 2, 8) == [[10, 10], [10]]
    assert zero_layout.sub_groups([10, 10, 10], 2, 15) == [[10, 10, 10]]
    assert zero_layout.persistent([5, 50, 3], threshold=10, limit=6) == [5]
    assert zero_layout.reduce_buckets([4, 4, 4], 5) == [8, 4]


# --- in the plan -----------------------------------------------------------------------------------------------------


def test_without_a_profile_a_plan_says_nothing_of_memory() -> None:
    assert plan(spec()).preferred.memory is None


def test_what_does_not_fit_is_said_with_what_would() -> None:
    made = plan(wanted(StrategyName.ddp, 8), machine(gpus=(Gpu(name="X", memory=24 * GIB),) * 8), profile=MODEL)
    note = next(note for note in made.notes if "Does not fit" in note)
    assert "of GPU memory, and X has 24 GiB for it. It would with strategy=" in note
    assert "strategy=zero3_offload" in note
    assert "strategy=ddp" not in note


def test_what_nothing_makes_fit() -> None:
    made = plan(wanted(StrategyName.zero2, 2), machine(gpus=(SMALL, H100)), profile=MODEL)
    assert made.preferred.memory
    assert made.preferred.memory.limits.device_name == "Small"
    assert any("Try a smaller micro_batch" in note for note in made.notes)


def test_host_memory_is_shared_by_the_workers_of_a_node() -> None:
    one = spec(cluster=Cluster(workers=4), precision=Precision())
    made = plan(one, machine(), profile=MODEL)
    assert made.preferred.memory
    assert made.preferred.memory.device == Held()
    assert made.preferred.memory.limits.host == 4 * GIB
    assert any("of host memory, and the node has 4 GiB for it" in note for note in made.notes)


def test_every_strategy_has_its_figure() -> None:
    one = wanted(StrategyName.ddp, 8)
    row = plan(one, machine(gpus=(H100,) * 8)).preferred
    all_of_them = budget.alternatives(MODEL, one, row, on_gpu=True)
    assert list(all_of_them) == [name for name in EXPLICIT_STRATEGIES if name is not StrategyName.zero3_nvme]
    assert all_of_them[StrategyName.ddp] == estimate.estimate(MODEL, one, row, on_gpu=True)


def test_settings_that_are_not_counted_are_named() -> None:
    strategy = Strategy(name=StrategyName.zero2, deepspeed={"zero_optimization": {"round_robin_gradients": True}})
    notes = needed(wanted(strategy)).notes
    assert any("zero_optimization.round_robin_gradients" in note for note in notes)


def test_a_model_that_cannot_be_measured_leaves_a_note() -> None:
    made = plan(
        spec(job=Job(name="a", task="b:C", steps=1)),
        profile=ModelProfile(parameters=(), buffer_bytes=0, notes=("The model does not run",)),
    )
    assert made.preferred.memory is None
    assert "The model does not run" in made.notes
