"""The automatic choice: the cheapest that fits, each strategy in its turn, and a reason for every other."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.config.schema import (
    AUTO,
    EXPLICIT_STRATEGIES,
    Cluster,
    JobSpec,
    Mesh,
    Precision,
    PrecisionName,
    Strategy,
    StrategyName,
)
from orchestrator.errors import MachineError, PlanError
from orchestrator.plans.memory import auto, budget
from orchestrator.plans.memory.profile_types import Activations, ModelProfile, Parameter
from orchestrator.plans.placement.inventory import Gpu, Inventory
from orchestrator.plans.types import Plan
from tests.unit.plans.plan_specs import machine, plan, spec

GIB = 2**30
MODEL = ModelProfile(
    parameters=tuple(Parameter(name=f"layers.{number}.weight", numel=2**24) for number in range(64)),
    buffer_bytes=0,
    activations=(
        Activations(micro_batch=4, bytes=5 * GIB, batch_bytes=400),
        Activations(micro_batch=8, bytes=9 * GIB, batch_bytes=800),
    ),
)
CAN_BE_CUT = dataclasses.replace(
    MODEL,
    parameters=tuple(
        dataclasses.replace(parameter, shape=(2**12, 2**12), layer=parameter.name.removesuffix(".weight"))
        for parameter in MODEL.parameters
    ),
    tensor_plan={"layers.*": "colwise"},
)
RESOLVED = {"strategy": {"name": "auto"}, "micro_batch": None}


def wanted(**parts: object) -> JobSpec:
    given = {
        "strategy": Strategy(name=StrategyName.auto),
        "precision": Precision(name=PrecisionName.bf16),
        "cluster": Cluster(workers=8),
        "batch": 64,
    }
    return spec(**{**given, **parts})


def gpus(memory: float, host: float = 4096 * GIB) -> Inventory:
    there = machine(gpus=(Gpu(name="Made up", memory=int(memory), capability=(9, 0)),) * 8)
    return dataclasses.replace(there, nodes=(dataclasses.replace(there.nodes[0], memory=int(host)),))


def chosen(there: Inventory, one: JobSpec | None = None, model: ModelProfile = MODEL) -> Plan:
    def plan_for(resolved: dict[str, object], explicit: JobSpec) -> Plan:
        made = plan(explicit, there)
        return budget.with_memory(dataclasses.replace(made, spec=resolved), explicit, model, there)

    return auto.choose(RESOLVED, one or wanted(), plan_for)


def peaks() -> dict[StrategyName, int]:
    one = wanted(strategy=Strategy(name=StrategyName.ddp))
    row = plan(one, gpus(80 * GIB)).preferred
    return {name: needed.device.peak for name, needed in budget.alternatives(MODEL, one, row, on_gpu=True).items()}


IN_MEMORY = [name for name in EXPLICIT_STRATEGIES if name is not StrategyName.zero3_nvme]


@pytest.mark.parametrize("strategy", IN_MEMORY)
def test_on_a_device_just_large_enough_each_strategy_is_chosen_in_its_turn(strategy: StrategyName) -> None:
    needed = peaks()
    cheaper = [name for name in IN_MEMORY if auto.COST[name] < auto.COST[strategy]]
    assert all(needed[name] > needed[strategy] for name in cheaper), "what is cheaper takes more"
    made = chosen(gpus(needed[strategy] / auto.USABLE + 1))
    assert made.strategy == strategy.value
    verdicts = {choice.strategy: choice.verdict for choice in made.choices}
    assert verdicts[strategy.value] == "chosen"
    for name in cheaper:
        assert verdicts[name.value].startswith("needs "), verdicts
        assert "of GPU memory, and" in verdicts[name.value]


def test_where_everything_fits_the_cheapest_is_chosen_and_the_others_are_called_slower() -> None:
    made = chosen(gpus(512 * GIB))
    assert made.strategy == "ddp"
    assert [choice.strategy for choice in made.choices] == [name.value for name in EXPLICIT_STRATEGIES]
    assert made.choices[1].verdict == "fits, about 1.2 times slower"


def test_the_plan_says_what_was_chosen_and_not_auto() -> None:
    made = chosen(gpus(512 * GIB))
    assert (made.spec["strategy"]["name"], made.spec["micro_batch"]) == ("ddp", None)
    assert Plan.from_json(made.to_json()) == made


def test_micro_batch_auto_takes_the_largest_that_fits() -> None:
    # Resident 2 x 2 GiB and more; activations are 1 GiB and 1 GiB a sample.
    one = wanted(strategy=Strategy(name=StrategyName.zero3), micro_batch=AUTO, batch=512)
    whole, tight = chosen(gpus(512 * GIB), one), chosen(gpus(40 * GIB), one)
    assert (whole.preferred.micro_batch, whole.preferred.accumulation) == (64, 1)
    assert tight.preferred.micro_batch < 64
    assert tight.preferred.micro_batch * tight.preferred.accumulation == 64
    assert tight.preferred.memory
    assert tight.preferred.memory.device.peak <= 40 * GIB * auto.USABLE


def test_micro_batch_auto_is_weighed_together_with_the_strategy() -> None:
    one = wanted(micro_batch=AUTO)
    small = chosen(gpus(26 * GIB), one)
    costs = {choice.strategy: choice.cost for choice in small.choices if choice.verdict.startswith(("fits", "chosen"))}
    assert costs[small.strategy] == min(costs.values())


def test_a_disk_is_the_last_resort_where_the_hosts_memory_is_short() -> None:
    few = {"cluster": Cluster(workers=2), "batch": 16}
    without = wanted(**few)
    disk = wanted(strategy=Strategy(name=StrategyName.auto, nvme_path="/nvme"), **few)
    needed = {choice.strategy: choice for choice in chosen(gpus(512 * GIB), disk).choices}
    assert needed["zero3_nvme"].host < needed["zero3_offload"].host
    device = needed["zero3_offload"].device / auto.USABLE + 1
    roomy, tight = gpus(device), gpus(device, host=2 * needed["zero3_nvme"].host / auto.USABLE + 2)
    assert chosen(roomy, disk).strategy == "zero3_offload"
    assert chosen(tight, disk).strategy == "zero3_nvme"
    with pytest.raises(MachineError, match="Nothing fits"):
        chosen(tight, without)
    last = chosen(roomy, without).choices[-1]
    assert (last.strategy, last.device) == ("zero3_nvme", 0)
    assert "strategy.nvme_path=null" in last.verdict


def test_when_nothing_fits_the_least_need_is_told() -> None:
    with pytest.raises(MachineError) as caught:
        chosen(gpus(1 * GIB))
    assert caught.value.message.startswith("Nothing fits: strategy=zero3_offload takes least, and it needs ")
    assert "cluster.workers" in caught.value.hint


def test_without_a_model_to_measure_nothing_is_chosen() -> None:
    with pytest.raises(MachineError, match="the model's memory is not known"):
        chosen(gpus(80 * GIB), model=ModelProfile(parameters=(), buffer_bytes=0))


def test_a_strategy_that_cannot_be_combined_is_passed_over_with_the_reason() -> None:
    made = chosen(gpus(512 * GIB), wanted(mesh=Mesh(tensor=2)), CAN_BE_CUT)
    verdicts = {choice.strategy: choice.verdict for choice in made.choices}
    assert made.strategy == "zero1"
    assert "mesh.tensor" in verdicts["ddp"]
    assert "mesh.tensor" in verdicts["zero3"]


def test_a_model_that_cannot_be_shared_out_is_refused_whatever_the_strategy() -> None:
    with pytest.raises(PlanError, match=r"mesh.tensor=2 cannot share out this model"):
        chosen(gpus(512 * GIB), wanted(mesh=Mesh(tensor=2), precision=Precision()))


def test_auto_is_not_planned_without_choosing() -> None:
    with pytest.raises(PlanError, match="strategy=auto needs the model's memory"):
        plan(wanted(), gpus(80 * GIB))
