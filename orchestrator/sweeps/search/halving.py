"""Which trials go on beyond a rung: asynchronous successive halving that promotes.

A trial that comes to a rung stands there until it is among the best of those that have come to it, one of `reduction`.
So early trials get nothing for being early, and a late good one overtakes. Pure; the ledger is its memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestrator.sweeps.engine.ledger import Book, State


class Halving:
    """The rungs of a sweep, and who has come to them."""

    def __init__(self, rungs: Sequence[int], reduction: int, trials: int, metric: str, mode: str) -> None:
        self._reduction = reduction
        self._metric = metric
        self._sign = 1.0 if mode == "min" else -1.0
        self._scores: dict[float, dict[int, float]] = {float(rung): {} for rung in rungs}
        self._standing: dict[int, float] = {}
        """Trials that stand at a rung, and which."""
        self._first = float(rungs[0])
        self._chances = max(1, trials // reduction)
        """How many can go on beyond the first rung, however many trials still come."""

    def replay(self, book: Book) -> None:
        """Take in what the ledger says of earlier sittings."""
        for trial in book.trials.values():
            for rung in trial.rungs:
                self._scores[rung.at][trial.number] = self._score(rung.metrics)
            if trial.state is State.paused:
                self._standing[trial.number] = trial.at

    def reached(self, number: int, at: float, metrics: Mapping[str, float]) -> bool:
        """A trial has come to a rung; whether it goes on at once."""
        self._scores[at][number] = self._score(metrics)
        if number in self._best(at):
            return True
        self._standing[number] = at
        return False

    def promoted(self, *, anyone: bool) -> int | None:
        """Whose turn it is to go on, the furthest first. `anyone`: the best there is, if nobody is good enough."""
        for at in sorted(self._scores, reverse=True):
            standing = [number for number in self._ranked(at) if self._standing.get(number) == at]
            best = self._best(at)
            turn = next((number for number in standing if number in best or anyone), None)
            if turn is not None:
                return turn
        return None

    def leave(self, number: int) -> None:
        """A trial stands no more: it goes on, or is over."""
        self._standing.pop(number, None)

    def hopeless(self) -> list[int]:
        """Who stands at the first rung behind so many that it can never be the turn of those."""
        behind = self._ranked(self._first)[self._chances :]
        return [number for number in behind if self._standing.get(number) == self._first]

    @property
    def standing(self) -> list[int]:
        """All trials that stand at rungs."""
        return sorted(self._standing)

    def _best(self, at: float) -> set[int]:
        return set(self._ranked(at)[: len(self._scores[at]) // self._reduction])

    def _ranked(self, at: float) -> list[int]:
        scores = self._scores[at]
        return sorted(scores, key=lambda number: (scores[number], number))

    def _score(self, metrics: Mapping[str, float]) -> float:
        """Smaller is better; what is no number is worst."""
        value = self._sign * float(metrics.get(self._metric, math.nan))
        return math.inf if math.isnan(value) else value
