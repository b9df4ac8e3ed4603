"""What a ledger says, worked out: which trials are best, what was spent and saved, how long it will take. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.sweeps.engine.ledger import Book, State, Trial
from orchestrator.sweeps.record import SweepRecord


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a point is as small as another in all, and smaller in some."""
    return one != other and all(first <= second for first, second in zip(one, other, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One sweep, at one moment."""

    record: SweepRecord
    book: Book
    clock: Callable[[], float] = time.time

    @property
    def metric(self) -> str:
        """The first objective."""
        return next(iter(self.record.objectives))

    def value(self, trial: Trial) -> float | None:
        """A trial's value of the first objective; None when it has none."""
        value = trial.metrics.get(self.metric)
        return None if value is None or not math.isfinite(value) else value

    def ranked(self) -> list[Trial]:
        """Finished trials with a value, best first; of equals the first. Trials that ended early come after them."""
        sign = 1.0 if self.record.objectives[self.metric] == "min" else -1.0

        def rank(trial: Trial) -> tuple[bool, float, int]:
            return trial.state is not State.finished, sign * (self.value(trial) or 0.0), trial.number

        judged = (State.finished, State.pruned)
        trials = [t for t in self.book.trials.values() if t.state in judged and self.value(t) is not None]
        return sorted(trials, key=rank)

    def best(self) -> Trial | None:
        """The best finished trial."""
        ranked = self.ranked()
        return ranked[0] if ranked and ranked[0].state is State.finished else None

    def front(self) -> list[Trial]:
        """Finished trials that no other one beats in all objectives."""
        done = [t for t in self.book.trials.values() if t.state is State.finished and self._point(t)]
        return [trial for trial in done if not any(self._beats(other, trial) for other in done)]

    def _point(self, trial: Trial) -> tuple[float, ...] | None:
        """The objectives, smaller being better."""
        values = [trial.metrics.get(name, math.nan) for name in self.record.objectives]
        if not all(math.isfinite(value) for value in values):
            return None
        return tuple(
            value if mode == "min" else -value
            for value, mode in zip(values, self.record.objectives.values(), strict=True)
        )

    def _beats(self, one: Trial, other: Trial) -> bool:
        first, second = self._point(one), self._point(other)
        return bool(first and second and beats(first, second))

    # --- time --------------------------------------------------------------------------------------------------------
    @property
    def unit(self) -> str:
        """What time is counted in: of GPUs where trials hold any, else of workers."""
        return "GPU hours" if self.record.gpus else "worker hours"

    @property
    def _per_second(self) -> float:
        return self.record.workers * (self.record.gpus or 1.0) / 3600

    @property
    def spent(self) -> float:
        """Hours that trials used."""
        return sum(trial.seconds for trial in self.book.trials.values()) * self._per_second

    @property
    def saved(self) -> float:
        """Hours that trials ended early would still have used."""
        ended = [trial for trial in self.book.trials.values() if trial.state is State.pruned and trial.at]
        left = sum(trial.seconds * (self.record.length - trial.at) / trial.at for trial in ended)
        return max(0.0, left) * self._per_second

    @property
    def over(self) -> int:
        """Trials that are over."""
        return sum(trial.is_over for trial in self.book.trials.values())

    @property
    def elapsed_s(self) -> float:
        """How long the sweep was carried out, all sittings together."""
        now = self.book.over or self.clock()
        return self.book.earlier_s + (now - self.book.began if self.book.began and not self.book.over else 0.0)

    @property
    def eta_s(self) -> float | None:
        """About how long the rest takes; None when nothing is known."""
        sitting = [t for t in self.book.trials.values() if t.is_over and (t.ended or 0) >= self.book.began]
        if not sitting or self.book.over:
            return None
        return (self.clock() - self.book.began) / len(sitting) * (self.record.trials - self.over)

    def counts(self) -> dict[str, int]:
        """How many trials stand how; what has not begun counts as waiting."""
        counts = {state.value: self.book.count(state) for state in State}
        counts["waiting"] += self.record.trials - len(self.book.trials)
        if self.book.status != "running":
            counts["interrupted"] = counts.pop("running")
        return {name: count for name, count in counts.items() if count}
