"""Shapes of the learning rate."""

from __future__ import annotations

import pytest

from orchestrator.config.schema import Schedule, ScheduleName
from orchestrator.errors import PlanError
from orchestrator.plans.schedule import check, lr_factor, warmup_steps

LINEAR, COSINE, CONSTANT = ScheduleName.linear, ScheduleName.cosine, ScheduleName.constant


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1, 1, 1, 1, 1]),
        (Schedule(name=CONSTANT, warmup_steps=2), [0.5, 1, 1, 1, 1]),
        (Schedule(name=LINEAR), [1, 0.75, 0.5, 0.25, 0]),
        (Schedule(name=LINEAR, final=0.2), [1, 0.8, 0.6, 0.4, 0.2]),
        (Schedule(name=LINEAR, warmup_fraction=0.5), [0.5, 1, 1, 0.5, 0]),
        (Schedule(name=COSINE), [1, 0.853553, 0.5, 0.146447, 0]),
        (Schedule(name=COSINE, final=0.5), [1, 0.926777, 0.75, 0.573223, 0.5]),
        (Schedule(name=LINEAR, warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
    ],
)
def test_course_over_four_steps(schedule: Schedule, expected: list[float]) -> None:
    assert [lr_factor(schedule, step, 4) for step in range(5)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", list(ScheduleName))
def test_course_rises_then_falls_within_bounds(name: ScheduleName) -> None:
    for total in (1, 7, 100):
        for warmup in (0, 1, total // 2, total):
            schedule = Schedule(name=name, warmup_steps=warmup, final=0.1)
            course = [lr_factor(schedule, step, total) for step in range(total)]
            assert all(0 < factor <= 1 for factor in course)
            assert course[:warmup] == sorted(course[:warmup])
            assert course[warmup:] == sorted(course[warmup:], reverse=True)


def test_past_the_end_the_final_value_stays() -> None:
    assert lr_factor(Schedule(name=COSINE, final=0.1), 500, 100) == pytest.approx(0.1)


def test_warmup_longer_than_the_training_is_refused() -> None:
    check(Schedule(warmup_steps=100), 100)
    with pytest.raises(PlanError) as caught:
        check(Schedule(warmup_steps=101), 100)
    assert caught.value.message == "schedule.warmup_steps=101 is longer than the whole training of 100 steps."
    assert "schedule.warmup_steps=10 " in caught.value.hint


def test_warmup_as_a_share() -> None:
    assert warmup_steps(Schedule(warmup_fraction=0.1), 55) == 6
    assert warmup_steps(Schedule(), 55) == 0
