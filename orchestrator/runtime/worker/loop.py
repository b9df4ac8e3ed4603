"""The training loop: steps, evaluations, checkpoints, and the ways it can end.

The loss is scaled by data-parallel size / global count before `backward`, since DeepSpeed averages over ranks:
gradients are then those of the mean over all items, at any batch split.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from orchestrator.config.schema import Every, JobSpec, MonitorMode
from orchestrator.errors import ConfigError, did_you_mean
from orchestrator.plans.schedule import lr_factor
from orchestrator.plans.types import Row
from orchestrator.records import events
from orchestrator.records.events import Emitter
from orchestrator.runtime.checkpoint.catalog import Progress, step_of
from orchestrator.runtime.checkpoint.checkpoint import Checkpoints
from orchestrator.runtime.worker.collective import Agreement, PendingSum
from orchestrator.runtime.worker.context import WorkerContext
from orchestrator.runtime.worker.data.loader import Loader, Window, to_device
from orchestrator.runtime.worker.data.sampler import Sampler, ends_epoch, split_evenly
from orchestrator.runtime.worker.data.source import Source
from orchestrator.runtime.worker.engine import Engine
from orchestrator.runtime.worker.evaluation.answers import Answers
from orchestrator.runtime.worker.evaluation.evaluation import evaluate
from orchestrator.runtime.worker.hardware import seed_step
from orchestrator.task import Dataset, Task

DONE, EARLY, STOPPED = "done", "early_stopping", "stopped"
"""Why training ended."""


@dataclass(kw_only=True)
class Parts:
    """What a loop works with."""

    ctx: WorkerContext
    spec: JobSpec
    row: Row
    task: Task
    engine: Engine
    agreement: Agreement
    checkpoints: Checkpoints
    events: Emitter | None
    """Only rank 0 writes events."""
    device: torch.device
    train: Dataset
    val: Dataset | None
    total_steps: int

    @property
    def cell(self) -> int:
        """Workers that compute one data-parallel share together."""
        return self.row.mesh.tensor * self.row.mesh.pipeline

    @property
    def data_rank(self) -> int:
        """Number of this worker's share of the data."""
        return self.ctx.rank // self.cell

    @property
    def counts(self) -> bool:
        """Whether this worker speaks for its share in sums over all workers."""
        return self.ctx.rank % self.cell == 0

    def emit(self, kind: str, step: int, **data: object) -> None:
        """Record an event, on rank 0."""
        if self.events:
            self.events.emit(kind, step, **data)


class Loop:
    """Trains from `progress.step` to the end; `progress` is always what a checkpoint would say."""

    def __init__(self, parts: Parts, progress: Progress) -> None:
        self._parts = parts
        self.progress = progress
        self.metrics: dict[str, float] = {}
        self._saved_at = progress.step if progress.step else -1
        self._warmed = False
        self._timed_steps = 0
        self._timed_seconds = 0.0
        self._loaders: dict[str, Loader] = {}
        self._sampler = Sampler(
            size=len(parts.train), seed=parts.spec.job.seed, row=parts.row, data_rank=parts.data_rank
        )

    def run(self) -> str:
        """Train until the plan is done, the metric has stopped getting better, or someone asks to stop."""
        reason = self._steps()
        if reason != STOPPED:
            self._evaluate_if(True)
        self._save_if(True)
        self._announce(self._parts.checkpoints.settle())
        return reason

    def _steps(self) -> str:
        parts = self._parts
        steps = range(self.progress.step, parts.total_steps)
        if self._is_stale():
            return EARLY
        windows = self._loader("train", parts.train).windows(self._sampler, steps)
        try:
            window = next(windows, None)
            agreed = self._agree(window)
            while window is not None:
                count, stop = agreed.result()
                if stop:
                    return STOPPED
                following = next(windows, None)
                agreed = self._agree(following)
                self._step(window, count)
                window = following
                self._evaluate_if(self._is_due(parts.spec.job.evaluate))
                # The last step's checkpoint comes after the evaluation at the end, and knows its result.
                self._save_if(self.progress.step < parts.total_steps and self._is_due(parts.spec.checkpoint.every))
                self._announce(parts.checkpoints.poll())
                if self._is_stale():
                    return EARLY
        finally:
            windows.close()
        return DONE

    def close(self) -> None:
        """End what makes batches."""
        for loader in self._loaders.values():
            loader.close()

    def _loader(self, split: str, dataset: Dataset) -> Loader:
        """What makes a split's batches; kept, since it may have processes."""
        parts, job = self._parts, self._parts.spec.job
        if split not in self._loaders:
            source = Source(task=parts.task, dataset=dataset, split=split, seed=job.seed)
            self._loaders[split] = Loader(source, job.loader, pin=parts.device.type == "cuda")
        return self._loaders[split]

    def _agree(self, window: Window | None) -> PendingSum:
        """Begin to sum the window's count, and whether to stop before it, over the workers."""
        count = window.count if window and self._parts.counts else 0
        return self._parts.agreement.sum_later([float(count), float(self._parts.ctx.should_stop())])

    def _step(self, window: Window, count: float) -> None:
        """One optimizer step. `count`: items or tokens in it over all workers; each weighs the same."""
        parts, job = self._parts, self._parts.spec.job
        started = time.perf_counter()
        lr = parts.spec.optimizer.lr * lr_factor(parts.spec.schedule, self.progress.step, parts.total_steps)
        parts.engine.set_lr(lr)
        seed_step(job.seed, self.progress.step, parts.data_rank)
        total = torch.zeros((), dtype=torch.float64, device=parts.device)
        for batch in window.batches:
            loss = parts.task.loss(parts.engine.model, to_device(batch, parts.device))
            # DeepSpeed averages gradients over the data-parallel ranks; times their number that is a sum again.
            parts.engine.backward(loss * (parts.row.mesh.data / count))
            parts.engine.step()
            total += loss.detach()
        self.progress.step += 1
        if not self._warmed:  # only now does the optimizer have all of its state
            self._warmed = True
            parts.checkpoints.warm(parts.engine.snapshot())
        self._timed_steps += 1
        if self.progress.step % job.log_every == 0 or self.progress.step == parts.total_steps:
            self._log(float(total) * parts.counts, count, lr, started)
        else:
            self._timed_seconds += time.perf_counter() - started

    def _log(self, loss_sum: float, count: float, lr: float, started: float) -> None:
        loss = self._parts.agreement.sum([loss_sum])[0] / count
        grad_norm = self._parts.engine.grad_norm
        step_time = (self._timed_seconds + time.perf_counter() - started) / self._timed_steps
        self._timed_steps, self._timed_seconds = 0, 0.0
        self._emit_metrics(
            {
                "train/loss": loss,
                "train/learning_rate": lr,
                "train/grad_norm": grad_norm,
                "train/step_time": step_time,
                "train/samples_per_second": self._parts.row.batch / step_time,
            }
        )
        if not math.isfinite(loss):
            self._parts.emit(
                events.NOTE,
                self.progress.step,
                message=f"the training loss is {loss}: lower optimizer.lr or set job.clip",
            )

    def _emit_metrics(self, metrics: dict[str, float]) -> None:
        self.metrics.update(metrics)
        self._parts.emit(events.METRICS, self.progress.step, metrics=metrics)

    def _is_due(self, every: Every) -> bool:
        step = self.progress.step
        size = len(self._parts.train)
        by_steps = every.steps is not None and step % every.steps == 0
        by_epochs = every.epochs is not None and ends_epoch(step, self._parts.row.batch, size, every.epochs)
        return by_steps or by_epochs

    def _is_stale(self) -> bool:
        patience = self._parts.spec.job.early_stopping.patience
        return patience is not None and self.progress.stale >= patience

    def _evaluate_if(self, due: bool) -> None:
        parts = self._parts
        if not due or parts.val is None or self.progress.evaluated_step == self.progress.step:
            return
        self.progress.evaluated_step = self.progress.step
        metrics = self.evaluate_split(parts.val, "val")
        self._judge(metrics)
        parts.ctx.report(metrics)

    def evaluate_split(self, dataset: Dataset, split: str, answers: Answers | None = None) -> dict[str, float]:
        """Evaluate and record one split."""
        metrics = self.measure(dataset, split, answers)
        named = {f"{split}/{name}": value for name, value in metrics.items()}
        self._emit_metrics(named)
        self._parts.emit(events.EVALUATED, self.progress.step, split=split, metrics=named)
        return metrics

    def measure(self, dataset: Dataset, split: str, answers: Answers | None = None) -> dict[str, float]:
        """Evaluate one split, which nobody is told of."""
        parts = self._parts
        return evaluate(
            parts.task,
            parts.engine,
            parts.agreement,
            self._loader(split, dataset),
            split_evenly(len(dataset), parts.row.micro_batch, parts.data_rank, parts.row.mesh.data),
            counts=parts.counts,
            device=parts.device,
            answers=answers,
        )

    def _judge(self, metrics: dict[str, float]) -> None:
        """Note whether the monitored metric got better; a best checkpoint is saved at once."""
        job, progress = self._parts.spec.job, self.progress
        value = metrics.get(job.monitor.metric)
        if value is None:
            raise ConfigError(
                f"job.monitor.metric={job.monitor.metric} is not a metric of this task.",
                did_you_mean(job.monitor.metric, list(metrics)),
            )
        gain = gain_over(progress.best, value, job.monitor.mode)
        if not (gain > job.early_stopping.min_delta):
            progress.stale += 1
        else:
            progress.stale = 0
        if gain > 0:
            progress.best, progress.best_step = value, progress.step
            progress.best_metrics = {f"val/{name}": value for name, value in metrics.items()}
            if self._parts.spec.checkpoint.best:
                self._save_if(True)

    def _save_if(self, due: bool) -> None:
        parts, progress = self._parts, self.progress
        if not due or self._saved_at == progress.step:
            return
        self._saved_at = progress.step
        if parts.events:
            parts.events.flush()  # a resumed run computes no step up to here again, so their metrics must be kept
        parts.checkpoints.save(progress, parts.engine.snapshot())

    def _announce(self, committed: list[str]) -> None:
        """Tell of checkpoints that count from now on."""
        for name in committed:
            step = step_of(name)
            self._parts.emit(events.CHECKPOINT, step, name=name, best=self.progress.best_step == step)
            self._parts.ctx.report({}, checkpoint=name)


def gain_over(best: float | None, value: float, mode: MonitorMode) -> float:
    """How much better a value is. NaN and infinity are worse than anything: they would stay the best for ever."""
    if not math.isfinite(value):
        return -math.inf
    if best is None:
        return math.inf
    return value - best if mode is MonitorMode.max else best - value
