"""When a run goes on after a failure, and when it is worth growing."""

from __future__ import annotations

import pytest

from orchestrator.config.schema import Resilience
from orchestrator.errors import ConfigError
from orchestrator.records.failures import Cause
from orchestrator.runtime.driver.growth import Growth
from orchestrator.runtime.driver.restarts import GiveUp, Restart, RestartPolicy


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failures_in_a_row_are_answered_with_longer_and_longer_pauses_and_then_no_more() -> None:
    policy = RestartPolicy(Resilience(max_failures=4, backoff_s=2))
    pauses = [policy.after(Cause.lost, 8) for _ in range(4)]
    assert pauses == [Restart(pause_s=pause) for pause in (0, 2, 4, 8)]
    assert policy.after(Cause.lost, 8) == GiveUp(
        reason="It failed 5 times without a new checkpoint in between (resilience.max_failures=4)."
    )


def test_a_new_checkpoint_begins_a_new_row() -> None:
    policy = RestartPolicy(Resilience(max_failures=1))
    assert [policy.after(Cause.lost, step) for step in (-1, 0, 1, 2)] == [Restart(pause_s=0)] * 4
    assert isinstance(policy.after(Cause.lost, 2), GiveUp)


def test_an_older_checkpoint_is_no_progress() -> None:
    policy = RestartPolicy(Resilience(max_failures=1))
    policy.after(Cause.lost, 8)
    assert isinstance(policy.after(Cause.lost, 4), GiveUp)


def test_pauses_have_an_end() -> None:
    policy = RestartPolicy(Resilience(max_failures=5000, backoff_s=1))
    assert [policy.after(Cause.lost, -1) for _ in range(5000)][-1] == Restart(pause_s=60)


@pytest.mark.parametrize(
    ("cause", "settings", "goes_on"),
    [
        (Cause.lost, Resilience(), True),
        (Cause.lost, Resilience(max_failures=0), False),
        (Cause.exception, Resilience(), False),
        (Cause.exception, Resilience(restart_on_exception=True), True),
        (Cause.config, Resilience(restart_on_exception=True), False),
    ],
)
def test_what_would_come_again_is_not_tried_again(cause: Cause, settings: Resilience, goes_on: bool) -> None:
    decision = RestartPolicy(settings).after(cause, -1)
    assert decision == (Restart(pause_s=0) if goes_on else GiveUp())


def test_room_must_last_before_a_run_grows() -> None:
    clock = Clock()
    growth = Growth(10, clock)
    growth.begun(2)
    seen = []
    for room in (2, 4, 4, 2, 4, 3, 4):
        seen.append(growth.is_due(room))
        clock.now += 6
    assert seen == [False, False, False, False, False, False, True]
    assert not growth.is_due(4), "once is enough"
    growth.begun(4)
    clock.now += 100
    assert not growth.is_due(4)


def test_a_run_that_has_not_begun_does_not_grow() -> None:
    growth = Growth(0.001, Clock())
    assert not growth.is_due(8)


def test_a_run_that_shall_not_grow_does_not() -> None:
    clock = Clock()
    growth = Growth(None, clock)
    growth.begun(1)
    assert not growth.is_due(2)
    clock.now += 1e9
    assert not growth.is_due(2)


def test_growing_in_vain_makes_patient() -> None:
    clock = Clock()
    growth = Growth(10, clock)
    growth.begun(1)

    def wait_until_due() -> float:
        began = clock.now
        while not growth.is_due(2):
            clock.now += 1
        return clock.now - began

    waits = []
    for size in (1, 1, 1, 1, 1, 1, 2):
        waits.append(wait_until_due())
        growth.begun(size)
    assert waits == [10, 20, 40, 80, 160, 160, 160]
    growth.begun(1)
    assert wait_until_due() == 10, "a loss of workers is no failure to grow"


@pytest.mark.parametrize("wrong", [{"max_failures": -1}, {"backoff_s": -0.1}, {"grow_interval_s": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"resilience.{next(iter(wrong))}="):
        Resilience(**wrong)
