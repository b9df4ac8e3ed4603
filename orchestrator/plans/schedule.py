"""The learning rate's course: a pure function of the step, so that a resumed run needs no scheduler state.

A scheduler object would have state to save, and its idea of a step would have to agree with DeepSpeed's.
"""

from __future__ import annotations

import math

from orchestrator.config.schema import Schedule, ScheduleName
from orchestrator.errors import PlanError


def warmup_steps(schedule: Schedule, total_steps: int) -> int:
    """Steps of linear rise, out of `total_steps`."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return round((schedule.warmup_fraction or 0.0) * total_steps)


def check(schedule: Schedule, total_steps: int) -> None:
    """Refuse a warmup that does not end within the training."""
    warmup = warmup_steps(schedule, total_steps)
    if warmup > total_steps:
        raise PlanError(
            f"schedule.warmup_steps={warmup} is longer than the whole training of {total_steps} steps.",
            f"Set schedule.warmup_steps={max(1, total_steps // 10)} or less, or train longer (job.steps).",
        )


def lr_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """Share of the peak learning rate for the step that comes after `step` completed ones.

    The first of w warmup steps gets 1/w (at 0 it would learn nothing), the last gets 1. `final` is reached when all
    steps are completed, so that the last step still learns; past the end the factor stays there.
    """
    warmup = warmup_steps(schedule, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.name is ScheduleName.constant:
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    falling = 1.0 - progress if schedule.name is ScheduleName.linear else (1.0 + math.cos(math.pi * progress)) / 2.0
    return schedule.final + (1.0 - schedule.final) * falling
