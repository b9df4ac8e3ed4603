"""Whether a plan's workers fit the memory there is, and which strategy would take less."""

from __future__ import annotations

import dataclasses

from orchestrator.config.schema import EXPLICIT_STRATEGIES, JobSpec, StrategyName
from orchestrator.foundation.units import show_bytes
from orchestrator.plans.batch import Arrangement
from orchestrator.plans.deepspeed import ds_config
from orchestrator.plans.memory import estimate, tensor_layout
from orchestrator.plans.memory.profile_types import ModelProfile
from orchestrator.plans.memory.types import Limits, Memory
from orchestrator.plans.placement.inventory import Inventory
from orchestrator.plans.types import Plan, Row


def with_memory(plan: Plan, spec: JobSpec, profile: ModelProfile, inventory: Inventory) -> Plan:
    """The plan with every row's memory, and notes about what does not fit or is not known.

    Refuses a model that the plan's mesh cannot share out.
    """
    if not profile.parameters:
        return dataclasses.replace(plan, notes=(*plan.notes, *profile.notes))
    tensor = plan.preferred.mesh.tensor
    if tensor > 1:
        tensor_layout.check(profile, plan.preferred.deepspeed.get("tensor_parallel", {}), tensor)
    on_gpu = plan.resources.gpus > 0
    limits = limits_of(plan, inventory)
    needed = [
        dataclasses.replace(estimate.estimate(profile, spec, row, on_gpu=on_gpu), limits=limits) for row in plan.rows
    ]
    rows = tuple(dataclasses.replace(row, memory=each) for row, each in zip(plan.rows, needed, strict=True))
    notes = [*needed[-1].notes, *_misfits(needed[-1], profile, spec, rows[-1], on_gpu=on_gpu)]
    return dataclasses.replace(plan, rows=rows, notes=(*plan.notes, *notes))


def alternatives(profile: ModelProfile, spec: JobSpec, row: Row, *, on_gpu: bool) -> dict[StrategyName, Memory]:
    """What a row's workers would need under every strategy that goes together with the mesh, and has a disk to use."""
    factors = Arrangement(mesh=row.mesh, batch=row.batch, micro_batch=row.micro_batch, accumulation=row.accumulation)
    cut = {key: row.deepspeed[key] for key in ("tensor_parallel",) if key in row.deepspeed}
    needed: dict[StrategyName, Memory] = {}
    able = ds_config.SHARES_LAYERS if cut else EXPLICIT_STRATEGIES
    for name in able if spec.strategy.nvme_path else [name for name in able if name is not StrategyName.zero3_nvme]:
        other = dataclasses.replace(spec, strategy=dataclasses.replace(spec.strategy, name=name))
        config = ds_config.config(other, factors, on_gpu=on_gpu) | cut
        needed[name] = estimate.estimate(profile, other, dataclasses.replace(row, deepspeed=config), on_gpu=on_gpu)
    return needed


def limits_of(plan: Plan, inventory: Inventory) -> Limits:
    """What the least of the places that the plan's workers may come to lie in has for each of them."""
    gpus = sorted((gpu for gpu in inventory.gpus if gpu.memory), key=lambda gpu: gpu.memory)
    share = min(1.0, plan.resources.gpus)
    smallest = gpus[0] if gpus and share else None
    return Limits(
        device=int(smallest.memory * share) if smallest else 0,
        device_name=smallest.name if smallest else "",
        host=_host_share(plan, inventory),
    )


def _host_share(plan: Plan, inventory: Inventory) -> int:
    """A node's memory for each worker on it, where that is least; 0: not known."""
    nodes = {node.name: node.memory for node in inventory.nodes}
    shares = [nodes[spot.node] // spot.workers for spot in plan.placement if nodes.get(spot.node)]
    if not shares and len(nodes) == 1:
        shares = [each // plan.preferred.world_size for each in nodes.values()]
    return min(shares, default=0)


def _misfits(planned: Memory, profile: ModelProfile, spec: JobSpec, row: Row, *, on_gpu: bool) -> list[str]:
    limits, notes = planned.limits, []
    if 0 < limits.device < planned.device.peak:
        ways = _ways_out(planned, profile, spec, row, on_gpu=on_gpu)
        notes.append(
            f"Does not fit: each worker needs {show_bytes(planned.device.peak)} of GPU memory, and "
            f"{limits.device_name} has {show_bytes(limits.device)} for it.{ways}"
        )
    if 0 < limits.host < planned.host.peak:
        notes.append(
            f"Does not fit: each worker needs {show_bytes(planned.host.peak)} of host memory, and the node has "
            f"{show_bytes(limits.host)} for it. Set a smaller micro_batch, or fewer cluster.workers."
        )
    return notes


def _ways_out(planned: Memory, profile: ModelProfile, spec: JobSpec, row: Row, *, on_gpu: bool) -> str:
    needed = alternatives(profile, spec, row, on_gpu=on_gpu)
    less = sorted(
        (each.device.peak, name.value) for name, each in needed.items() if each.device.peak <= planned.limits.device
    )
    if less:
        return " It would with " + ", ".join(f"strategy={name} ({show_bytes(peak)})" for peak, name in less) + "."
    return " Try a smaller micro_batch, or job.activation_checkpointing=true."
