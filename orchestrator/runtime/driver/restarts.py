"""Whether a run goes on after a failure, and when.

Restarts are decided here and not by Ray Train: its elasticity kills the workers in order to grow, which costs the steps
since the last checkpoint, and it exists for Ray alone. Each restart is an Attempt with a number, which fences
checkpoints and metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import Resilience
from orchestrator.records.failures import Cause

LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Restart:
    """Begin a new attempt, from the newest checkpoint."""

    pause_s: float
    """Wait so long before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GiveUp:
    """The run has failed."""

    reason: str = ""
    """Why no further attempt is made; empty when the failure itself says so."""


class RestartPolicy:
    """Counts failures in a row; a new checkpoint between two of them ends the row, for then the run gets on."""

    def __init__(self, settings: Resilience) -> None:
        self._settings = settings
        self._row = 0
        self._saved = -1

    def after(self, cause: Cause, saved_step: int) -> Restart | GiveUp:
        """What to do after a failure. `saved_step`: of the newest checkpoint, -1 without one."""
        if cause is Cause.config or (cause is Cause.exception and not self._settings.restart_on_exception):
            return GiveUp()
        if saved_step > self._saved:
            self._row, self._saved = 0, saved_step
        self._row += 1
        limit = self._settings.max_failures
        if self._row > limit:
            return GiveUp(reason=_too_often(self._row, limit))
        return Restart(pause_s=self._pause())

    def _pause(self) -> float:
        """None before the first restart in a row, then the backoff, doubled each time."""
        if self._row == 1:
            return 0.0
        return min(self._settings.backoff_s * 2.0 ** min(self._row - 2, 20), LONGEST_PAUSE_S)


def _too_often(failures: int, limit: int) -> str:
    if not limit:
        return ""
    return f"It failed {failures} times without a new checkpoint in between (resilience.max_failures={limit})."
