"""Running real trainings in tests, and the plain PyTorch loop they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from orchestrator import paths
from orchestrator.config import load
from orchestrator.config.schema import JobSpec
from orchestrator.config.targets import targets
from orchestrator.plans.make import make
from orchestrator.plans.placement.inventory import Inventory, Node
from orchestrator.plans.schedule import lr_factor
from orchestrator.plans.types import MeshShape, Plan
from orchestrator.records import events, runs
from orchestrator.records.events import Event, EventReader
from orchestrator.records.runs import RunRecord
from orchestrator.runtime.driver import driver
from orchestrator.runtime.launchers.base import Launcher
from orchestrator.runtime.worker.data.sampler import Sampler
from orchestrator.runtime.worker.engine import parameter_groups
from orchestrator.runtime.worker.hardware import seed_step

MACHINE = Inventory(nodes=(Node(name="test", cpus=2, memory=8 * 2**30),))
SMALL = ["tracking=off", "cluster=torchrun", "tracking.system_metrics=false"]


@dataclass
class Recorder:
    """A view that keeps what it is shown, and can act on it."""

    act: Callable[[Event], None] = lambda event: None
    events: list[Event] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.events.append(event)
        self.act(event)

    def say(self, text: str) -> None:
        self.said.append(text)


def plan_of(*overrides: str) -> Plan:
    """The plan for overrides, in the current project, on a machine with two CPUs."""
    loaded = load.load([*SMALL, *overrides])
    return make(loaded.resolved, loaded.spec, MACHINE, environment={}, shared_storage=False)


def spec_of(plan: Plan) -> JobSpec:
    return load.spec_from_dict(plan.spec)


def carry_out(plan: Plan, view: Recorder | None = None, launcher: Launcher | None = None) -> RunRecord:
    """Run a plan to its end."""
    record = runs.create(plan)
    return driver.carry_out(record, plan, spec_of(plan), view or Recorder(), launcher)


def go_on(record: RunRecord, view: Recorder | None = None) -> RunRecord:
    """Resume a run, read anew as another process would."""
    again = runs.load(str(Path(record.root).parent), record.id)
    return driver.carry_out(again, again.plan, spec_of(again.plan), view or Recorder())


def curve(record: RunRecord, name: str = "train/loss") -> dict[int, float]:
    """A metric by step; a step that was computed again counts with its last value."""
    return {
        event.step: event.data["metrics"][name]
        for event in EventReader(record.store).poll()
        if event.kind == events.METRICS and event.step is not None and name in event.data["metrics"]
    }


def plain_curve(plan: Plan) -> dict[int, float]:
    """The losses of the same training in one process of plain PyTorch: no accumulation, no DeepSpeed, no workers."""
    spec = spec_of(plan)
    row = dataclasses.replace(
        plan.preferred, mesh=MeshShape(data=1), micro_batch=plan.preferred.batch, accumulation=1, world_size=1
    )
    task = targets.bind(plan.spec, project=paths.project_dir()).task()
    torch.set_num_threads(1)
    torch.manual_seed(spec.job.seed)
    model = task.build_model()
    groups = parameter_groups(model, spec.optimizer.no_decay, spec.optimizer.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=spec.optimizer.lr)
    dataset = task.dataset("train")
    sampler = Sampler(size=len(dataset), seed=spec.job.seed, row=row, data_rank=0)
    losses = {}
    assert spec.job.steps
    for step in range(spec.job.steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.optimizer.lr * lr_factor(spec.schedule, step, spec.job.steps)
        seed_step(spec.job.seed, step, 0)
        batch = task.collate([dataset[index] for index in sampler.window(step)[0]])
        loss = task.loss(model, batch) / task.count(batch)
        optimizer.zero_grad()
        loss.backward()
        if spec.job.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec.job.clip)
        optimizer.step()
        losses[step + 1] = loss.item()
    return losses
