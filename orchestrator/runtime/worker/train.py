"""What each worker does: build the parts the plan names, train, and leave the final model. Knows nothing of Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from orchestrator.config.schema import JobSpec
from orchestrator.config.spec import spec_from_dict
from orchestrator.config.targets import targets
from orchestrator.errors import ConfigError
from orchestrator.foundation.storage import open_store
from orchestrator.plans import schedule
from orchestrator.plans.types import Plan, Row
from orchestrator.records import events
from orchestrator.records.events import EventWriter
from orchestrator.records.spool import Spool
from orchestrator.runtime.checkpoint import swapped
from orchestrator.runtime.checkpoint.catalog import Progress, require, step_of
from orchestrator.runtime.checkpoint.checkpoint import Checkpoints, Retention
from orchestrator.runtime.checkpoint.final_model import describe_model, save_model
from orchestrator.runtime.checkpoint.whole_model import WholeModel
from orchestrator.runtime.fast_start import idle_compiler
from orchestrator.runtime.worker.collective import Agreement
from orchestrator.runtime.worker.context import WorkerContext
from orchestrator.runtime.worker.data.data_cache import KEPT
from orchestrator.runtime.worker.data.sampler import total_steps
from orchestrator.runtime.worker.engine import Engine
from orchestrator.runtime.worker.evaluation import results
from orchestrator.runtime.worker.evaluation.answers import Answers
from orchestrator.runtime.worker.hardware import check_precision, configure_torch, pick_device
from orchestrator.runtime.worker.loop import STOPPED, Loop, Parts
from orchestrator.runtime.worker.system import SystemMonitor
from orchestrator.task import Dataset, Task

VAL, TEST = "val", "test"


def train(ctx: WorkerContext) -> None:
    """Carry out the plan on this worker."""
    plan = Plan.from_dict(ctx.launch.plan)
    spec = spec_from_dict(plan.spec)
    row = plan.row(ctx.world_size)
    configure_torch(spec)
    device = pick_device(ctx.local_rank, plan.resources.gpus)
    check_precision(spec.precision.name, device)
    bound = targets.bind(plan.spec, project=Path(ctx.launch.project))
    task: Task = bound.task(KEPT.data(plan.spec["data"], bound.data) if ctx.launch.keeps_data else None)
    compiler = contextlib.nullcontext() if spec.job.compile else idle_compiler.out_of_the_way()
    with compiler, _watching_system(ctx, spec), swapped.own_folder(row, ctx.launch, ctx.rank) as row:
        _train(ctx, plan, spec, row, task, device)


def _train(ctx: WorkerContext, plan: Plan, spec: JobSpec, row: Row, task: Task, device: torch.device) -> None:
    agreement = Agreement()
    parts = Parts(
        ctx=ctx,
        spec=spec,
        row=row,
        task=task,
        engine=Engine(task, spec, row, device),
        agreement=agreement,
        checkpoints=Checkpoints(
            ctx.checkpoints,
            rank=ctx.rank,
            world_size=ctx.world_size,
            attempt=ctx.launch.attempt,
            gang=agreement,
            retention=Retention(keep=spec.checkpoint.keep, keep_every=spec.checkpoint.keep_every),
            asynchronous=spec.checkpoint.asynchronous,
        ),
        events=Spool(_writer(ctx, "rank-0")) if ctx.rank == 0 else None,
        device=device,
        train=_training_data(task),
        val=_optional(task, VAL),
        total_steps=0,
    )
    parts.total_steps = total_steps(len(parts.train), row.batch, spec.job.epochs, spec.job.steps)
    schedule.check(spec.schedule, parts.total_steps)
    loop = Loop(parts, _resume(parts))
    _pause(parts, loop.progress)
    try:
        _announce(parts, loop.progress)
        reason = loop.run()
        if reason != STOPPED:
            _finish(parts, loop, plan)
        parts.emit(
            events.FINISHED, loop.progress.step, reason=reason, metrics=loop.metrics, best_step=loop.progress.best_step
        )
    finally:
        loop.close()
        if parts.events:
            parts.events.close()
    parts.engine.close()


def _training_data(task: Task) -> Dataset:
    dataset = task.dataset("train")
    if dataset is None or len(dataset) == 0:
        raise ConfigError("The training split is empty.", "Check the data settings and the source they point to.")
    return dataset


def _optional(task: Task, split: str) -> Dataset | None:
    dataset = task.dataset(split)
    return dataset if dataset is not None and len(dataset) else None


def _resume(parts: Parts) -> Progress:
    """Take up the newest checkpoint of this run that is whole, if there is one."""
    parts.checkpoints.begin()
    found = parts.checkpoints.load_newest(parts.engine.restore)
    for reason in found.passed_over:
        parts.emit(events.NOTE, found.progress.step, message=reason)
    return found.progress


def _pause(parts: Parts, progress: Progress) -> None:
    """Train only as far as the launch says."""
    until, job = parts.ctx.launch.pause_at, parts.spec.job
    if until is not None:
        length = (until, None) if job.epochs else (None, int(until))
        parts.ctx.pause_after(max(0, total_steps(len(parts.train), parts.row.batch, *length) - progress.step))


def _announce(parts: Parts, progress: Progress) -> None:
    parts.emit(
        events.STARTED,
        progress.step,
        world_size=parts.ctx.world_size,
        total_steps=parts.total_steps,
        steps_per_epoch=len(parts.train) / parts.row.batch,
        device=str(parts.device),
        parameters=parts.engine.parameters,
    )


def _finish(parts: Parts, loop: Loop, plan: Plan) -> None:
    """Go back to the best weights, evaluate them on the test split, and write the final model."""
    progress, checkpoints = loop.progress, parts.checkpoints
    best = checkpoints.catalog.at_step(progress.best_step) if parts.spec.checkpoint.best else None
    name = best or require(checkpoints.catalog, str(progress.step))
    if best and progress.best_step != progress.step:
        checkpoints.load(best, parts.engine.restore_model)
        loop.metrics.update(progress.best_metrics)
    _evaluate_for_good(parts, loop)
    description = describe_model(parts.task, parts.engine, parts.train, parts.device)
    if parts.ctx.rank == 0:
        description |= {"step": step_of(name), "metrics": loop.metrics}
        with checkpoints.catalog.opened(name) as checkpoint:
            save_model(open_store(parts.ctx.launch.root), WholeModel(checkpoint.reader()), plan, description)


def _evaluate_for_good(parts: Parts, loop: Loop) -> None:
    """The test split; and the model's answers and plots for people to look at, on val where there is no test split."""
    looked_at = parts.spec.tracking.enabled and parts.spec.tracking.plots
    test = _optional(parts.task, TEST)
    if test is not None:
        answers = _answers(parts) if looked_at else None
        metrics = loop.evaluate_split(test, TEST, answers)
        if answers:
            _show(parts, loop, TEST, test, answers, metrics)
    elif parts.val is not None and looked_at:
        answers = _answers(parts)
        _show(parts, loop, VAL, parts.val, answers, loop.measure(parts.val, VAL, answers))


def _answers(parts: Parts) -> Answers:
    return Answers(parts.task, parts.row.micro_batch * parts.row.mesh.data)


def _show(
    parts: Parts, loop: Loop, split: str, dataset: Dataset, answers: Answers, metrics: Mapping[str, float]
) -> None:
    """Leave answers and plots in the run's folder."""
    store = open_store(parts.ctx.launch.root)
    if parts.counts and answers.rows:
        results.leave(store, split, parts.ctx.rank, answers)
    if parts.events:
        parts.events.flush()
    parts.agreement.barrier()
    if parts.ctx.rank == 0:
        about = {"split": split, "step": loop.progress.step, "metrics": metrics}
        results.keep(store, split, about, results.gather(store, split), results.class_names(dataset))
        results.keep_loss_curves(store)


def _writer(ctx: WorkerContext, name: str) -> EventWriter:
    return EventWriter(open_store(ctx.launch.root), name, ctx.launch.attempt)


@contextmanager
def _watching_system(ctx: WorkerContext, spec: JobSpec) -> Iterator[None]:
    """Record system metrics, from one worker of each node."""
    if ctx.local_rank != 0 or not spec.tracking.system_metrics:
        yield
        return
    writer = _writer(ctx, f"node-{ctx.node_rank}")
    monitor = SystemMonitor(
        lambda metrics: writer.emit(events.METRICS, None, metrics=metrics),
        spec.tracking.system_metrics_interval_s,
        ctx.node_rank,
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.stop()
        writer.flush()
