"""Which trials go on beyond a rung, and that the ledger is all it needs to know."""

from __future__ import annotations

import math
import random

from orchestrator.sweeps.engine.ledger import BEGUN, ENDED, PAUSED, RUNG, TRIAL, Book
from orchestrator.sweeps.search.halving import Halving


def halving(trials: int = 9, reduction: int = 3, mode: str = "min") -> Halving:
    return Halving([1, 3, 9], reduction, trials, "loss", mode)


def come(rungs: Halving, losses: dict[int, float], at: float = 1) -> dict[int, bool]:
    """Trials that come to a rung one after the other; who went on at once."""
    return {number: rungs.reached(number, at, {"loss": loss}) for number, loss in losses.items()}


def test_one_of_so_many_goes_on_and_no_one_for_being_early() -> None:
    rungs = halving()
    assert come(rungs, {0: 0.5, 1: 0.6}) == {0: False, 1: False}
    assert rungs.promoted(anyone=False) is None
    assert come(rungs, {2: 0.7}) == {2: False}
    assert rungs.promoted(anyone=False) == 0  # the best of three, which stood until they were three
    rungs.leave(0)
    assert rungs.promoted(anyone=False) is None
    assert come(rungs, {3: 0.1}) == {3: True}
    assert rungs.standing == [1, 2]


def test_a_trial_that_stood_is_promoted_when_more_have_come() -> None:
    rungs = halving()
    come(rungs, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.9, 4: 0.8, 5: 0.7})
    assert rungs.promoted(anyone=False) == 0
    rungs.leave(0)
    assert rungs.promoted(anyone=False) == 1
    rungs.leave(1)
    assert rungs.promoted(anyone=False) is None


def test_the_furthest_come_first() -> None:
    rungs = halving()
    come(rungs, {number: number / 10 for number in range(9)})
    for number in range(3):
        assert rungs.promoted(anyone=False) == number
        rungs.leave(number)
        come(rungs, {number: number / 10}, at=3)
    come(rungs, {9: 2.0, 10: 2.0, 11: 2.0})
    for number in (0, 3):  # at the second rung, and then at the first
        assert rungs.promoted(anyone=False) == number
        rungs.leave(number)


def test_somebody_is_trained_in_full() -> None:
    rungs = halving()
    come(rungs, {0: 0.5, 1: math.nan})
    assert rungs.promoted(anyone=False) is None
    assert rungs.promoted(anyone=True) == 0
    rungs.leave(0)
    come(rungs, {0: 0.5}, at=3)
    assert rungs.promoted(anyone=True) == 0  # the furthest again
    rungs.leave(0)
    assert rungs.promoted(anyone=True) == 1


def test_larger_can_be_better() -> None:
    rungs = halving(mode="max")
    come(rungs, {0: 0.5, 1: 0.6, 2: 0.1})
    assert rungs.promoted(anyone=False) == 1


def test_who_is_behind_too_many_is_hopeless() -> None:
    rungs = halving()
    come(rungs, {0: 0.5, 1: 0.6, 2: 0.7})
    assert rungs.hopeless() == []
    come(rungs, {3: 0.4})
    assert rungs.hopeless() == [2]
    rungs.leave(2)
    assert rungs.hopeless() == []


def carried_out(rungs: Halving, losses: dict[int, list[float]], book: Book, cut: int | None = None) -> None:
    """Trials one after the other, each line into the book; ended after so many lines."""
    finished = [trial.number for trial in book.trials.values() if trial.is_over]

    def write(kind: str, number: int, **data: object) -> None:
        book.take({"kind": kind, "time": 0.0, "number": number, "seconds": 0.0, **data})

    while cut is None or len(book.order) < cut:
        fresh = next((number for number in losses if number not in book.trials), None)
        number = rungs.promoted(anyone=fresh is None and not finished)
        if number is None:
            if fresh is None:
                return
            number = fresh
            write(TRIAL, number, values={}, overrides=[])
        rungs.leave(number)
        write(BEGUN, number)
        for place, at in enumerate((1, 3, 9)):
            if at <= book.trials[number].at:
                continue
            metrics = {"loss": losses[number][place]}
            goes_on = rungs.reached(number, at, metrics)
            write(RUNG, number, at=at, step=at, metrics=metrics)
            if not goes_on:
                write(PAUSED, number)
                break
        else:
            write(ENDED, number, state="finished", metrics={})
            finished.append(number)


def test_a_sweep_that_goes_on_from_its_ledger_promotes_whom_it_would_have() -> None:
    chance = random.Random(3)
    losses = {number: [chance.random() for _ in range(3)] for number in range(27)}
    whole = Book()
    carried_out(halving(27), losses, whole)
    ended = [number for number, trial in whole.trials.items() if trial.is_over]
    assert ended
    for cut in range(5, len(whole.order), 7):
        book = Book()
        carried_out(halving(27), losses, book, cut)
        again = halving(27)
        again.replay(book)
        carried_out(again, losses, book)
        assert book.order == whole.order
