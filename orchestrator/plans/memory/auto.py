"""`strategy=auto` and `micro_batch=auto`: the cheapest configuration that fits, and why each other was passed over.

The cost model ranks, it does not predict: a step costs COST[strategy] x (1 + PASS_COST x (accumulation - 1)), relative
to data parallel training without accumulation. Both numbers come from measurements (benchmarks/strategies.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import AUTO, JobSpec, StrategyName
from orchestrator.errors import MachineError, OrchestratorError, PlanError
from orchestrator.foundation.units import show_bytes
from orchestrator.plans.memory.types import Memory
from orchestrator.plans.types import Choice, Plan

COST: Mapping[StrategyName, float] = {
    StrategyName.ddp: 1.0,
    StrategyName.zero1: 1.2,
    StrategyName.zero2: 1.25,
    StrategyName.zero3: 2.7,
    StrategyName.zero2_offload: 3.0,
    StrategyName.zero3_offload: 4.0,
    StrategyName.zero3_nvme: 8.0,
}
"""Time of a step under each strategy, relative to ddp: what more communication and host transfers cost."""
PASS_COST = 0.05
"""What each further forward and backward pass adds to a step, as a share of it: small passes use hardware badly."""
USABLE = 0.9
"""Share of memory that a plan may count on; the rest is for CUDA's context, NCCL, fragmentation and other processes."""

PlanFor = Callable[[dict[str, Any], JobSpec], Plan]
"""Plans an explicit spec, memory included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    choice: Choice
    plan: Plan | None = None
    """None: it was refused, or does not fit."""


def is_wanted(spec: JobSpec) -> bool:
    """Whether anything is left to choose."""
    return spec.strategy.name is StrategyName.auto or spec.micro_batch == AUTO


def start(resolved: dict[str, Any], spec: JobSpec, plan_for: PlanFor) -> Plan:
    """A plan to begin with: the cheapest strategy that can be combined with the rest, in as few passes as can be."""
    micro = None if spec.micro_batch == AUTO else spec.micro_batch
    refusals: list[OrchestratorError] = []
    for strategy in _strategies(spec):
        try:
            return plan_for(*_explicit(resolved, spec, strategy, micro))
        except OrchestratorError as error:
            refusals.append(error)
    raise refusals[0]


def choose(resolved: dict[str, Any], spec: JobSpec, plan_for: PlanFor) -> Plan:
    """The plan of the cheapest candidate that fits; its `choices` hold the best of each strategy, and the reasons."""
    micros = list(_micro_batches(spec, start(resolved, spec, plan_for)))
    best = [_best_of(strategy, micros, resolved, spec, plan_for) for strategy in _strategies(spec)]
    fitting = [(candidate.choice, candidate.plan) for candidate in best if candidate.plan]
    if not fitting:
        raise _nothing_fits([candidate.choice for candidate in best])
    chosen, plan = min(fitting, key=lambda fits: fits[0].cost)
    return dataclasses.replace(plan, choices=tuple(_judged(candidate, chosen) for candidate in best))


def _strategies(spec: JobSpec) -> list[StrategyName]:
    if spec.strategy.name is not StrategyName.auto:
        return [spec.strategy.name]
    return sorted(COST, key=lambda name: COST[name])


def _micro_batches(spec: JobSpec, base: Plan) -> Iterator[int | None]:
    """The micro-batches to try, largest first; only the one that was given or follows, unless it is to be chosen."""
    if spec.micro_batch != AUTO:
        yield spec.micro_batch
        return
    if spec.accumulation is not None:
        yield None
        return
    row = base.preferred
    whole = row.batch // row.mesh.data
    yield from (micro for micro in range(whole, 0, -1) if whole % micro == 0)


def _best_of(
    strategy: StrategyName, micros: list[int | None], resolved: dict[str, Any], spec: JobSpec, plan_for: PlanFor
) -> _Candidate:
    """A strategy with the largest micro-batch that fits, or with the smallest when none does."""
    tried = None
    for micro in micros:
        try:
            plan = plan_for(*_explicit(resolved, spec, strategy, micro))
        except OrchestratorError as error:
            return _Candidate(choice=Choice(strategy=strategy.value, cost=COST[strategy], verdict=error.message))
        memory = _memory(plan)
        lack = _lack(memory)
        tried = _Candidate(choice=_choice(strategy, plan, memory, lack), plan=None if lack else plan)
        if tried.plan:
            break
    if tried is None:
        raise PlanError("There is no micro-batch to try.", "Set batch.")
    return tried


def _choice(strategy: StrategyName, plan: Plan, memory: Memory, lack: str) -> Choice:
    row = plan.preferred
    return Choice(
        strategy=strategy.value,
        micro_batch=row.micro_batch,
        accumulation=row.accumulation,
        cost=round(COST[strategy] * (1 + PASS_COST * (row.accumulation - 1)), 3),
        device=memory.device.peak,
        host=memory.host.peak,
        verdict=lack,
    )


def _memory(plan: Plan) -> Memory:
    if plan.preferred.memory is None:
        raise MachineError(
            "Nothing can be chosen automatically, because the model's memory is not known.",
            "Name a strategy (strategy=zero2) and a micro_batch; or plan where torch is installed, or for a cluster "
            "(cluster.address=...), which then measures the model.",
        )
    return plan.preferred.memory


def _lack(memory: Memory) -> str:
    """What there is too little of; empty when all fits, as far as is known."""
    places = (("GPU", memory.device.peak, memory.limits.device), ("host", memory.host.peak, memory.limits.host))
    for where, needed, there in places:
        if there and needed > there * USABLE:
            return f"needs {show_bytes(needed)} of {where} memory, and {show_bytes(int(there * USABLE))} can be used"
    return ""


def _judged(candidate: _Candidate, chosen: Choice) -> Choice:
    if candidate.choice is chosen:
        return dataclasses.replace(candidate.choice, verdict="chosen")
    if candidate.plan:
        times = candidate.choice.cost / chosen.cost
        return dataclasses.replace(candidate.choice, verdict=f"fits, about {times:.1f} times slower")
    return candidate.choice


def _nothing_fits(choices: list[Choice]) -> MachineError:
    least = min(choices, key=lambda choice: choice.device or choice.host or float("inf"))
    return MachineError(
        f"Nothing fits: strategy={least.strategy} takes least, and it {least.verdict}.",
        "Add workers (cluster.workers), set job.activation_checkpointing=true, micro_batch=auto, or a smaller model.",
    )


def _explicit(
    resolved: dict[str, Any], spec: JobSpec, strategy: StrategyName, micro: int | None
) -> tuple[dict[str, Any], JobSpec]:
    """The same spec with the choices made, as objects and as plain data."""
    data = {**resolved, "strategy": {**resolved["strategy"], "name": strategy.value}, "micro_batch": micro}
    made = dataclasses.replace(spec, strategy=dataclasses.replace(spec.strategy, name=strategy), micro_batch=micro)
    return data, made
