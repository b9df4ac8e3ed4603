"""What Ray Tune calls a trainable: one trial after the other on one gang of workers that stays warm.

Each step trains up to the next rung and saves there. So a trial can be paused, ended, handed to another process or
gone on with by another trial, at any rung, by what lies in run storage alone.

This process leads a gang and does not train itself. That costs one light process; the same code then serves one worker
and many, outlives a worker that dies, and continues from the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from orchestrator import paths
from orchestrator.foundation.storage import open_store
from orchestrator.plans.types import Plan
from orchestrator.records.failures import is_out_of_memory
from orchestrator.runtime.launchers.ray.gang import Gang, GangEnd
from orchestrator.sweeps.engine.exchange import hand_out, take_over
from orchestrator.sweeps.engine.trial_run import NEVER_REPORTED, TrialRun

ENDED, FAILED, INTERRUPTED, AT, STEP, SECONDS = "ended", "failed", "interrupted", "at", "step", "seconds"
MICRO_BATCH = "micro_batch"
"""What a result says beside metrics: whether the training is done, why it failed, whether it was told to stop, how far
it came, how long its workers trained, and with which micro batch in the end."""
METRIC = "metric/"
"""What the names of metrics begin with in a result, to be told from Ray Tune's own entries."""
RETRY_S = 1.0


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """What a result says of the trial, without Ray Tune's own entries."""
    return {name.removeprefix(METRIC): value for name, value in result.items() if name.startswith(METRIC)}


class WarmTrial(tune.Trainable):  # type: ignore[misc]
    """Carries out the trials that Ray Tune gives this process, in workers that it keeps."""

    def setup(self, config: dict[str, Any]) -> None:
        """The first trial of this process."""
        self._gang: Gang | None = None
        self._shape: Any = None
        self._open(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial, or the same one with other values."""
        self._open(new_config)
        return True

    def _open(self, config: dict[str, Any]) -> None:
        self._trial = config
        self._run = TrialRun(config["root"], newest_counts=config["newest_counts"], package=config["package"])

    def step(self) -> dict[str, Any]:
        """Train up to the next rung, or to the end."""
        if open_store(self._trial["sweep"]).exists(paths.STOP):
            return {INTERRUPTED: True, ENDED: False, FAILED: "", "done": True}
        pause_at, retries = self._next_rung(), self._trial["retries"]
        while True:
            end = self._warm(self._run.plan).run(self._run.begin(pause_at))
            told = self._run.failure() or end.error
            if end.error and is_out_of_memory(told) and (smaller := self._smaller()):
                self._run.end(told)
                self._run.change(smaller)
            elif self._is_lost(end) and retries:
                retries -= 1
                self._run.end(end.error)
                time.sleep(RETRY_S)
            else:
                return self._result(end, pause_at)

    def _smaller(self) -> Plan | None:
        """The next plan with a smaller micro batch, if a trial that runs out of memory may have one."""
        plans = (Plan.from_dict(plan) for plan in self._trial["smaller"])
        now = self._run.plan.preferred.micro_batch
        return next((plan for plan in plans if plan.preferred.micro_batch < now), None)

    def _is_lost(self, end: GangEnd) -> bool:
        """Whether the same may go well another time: a worker died, and none told an exception of its own."""
        return bool(end.lost or not end.started) and not self._run.failure()

    def _next_rung(self) -> float | None:
        return next((rung for rung in self._trial["rungs"] if rung > self._reached), None)

    @property
    def _reached(self) -> float:
        return float(self._trial.get("reached", 0.0))

    def _result(self, end: GangEnd, pause_at: float | None) -> dict[str, Any]:
        error = (self._run.failure() or end.error) if end.error else ""
        reached = self._run.end(error)
        lacking = [name for name in self._trial["objectives"] if name not in reached.metrics]
        on_the_way = not error and not reached.finished
        interrupted = on_the_way and open_store(self._run.record.root).exists(paths.STOP)
        if lacking and not error and not interrupted:
            known = ", ".join(sorted(reached.metrics))
            error = f"{NEVER_REPORTED}{lacking[0]!r} is never reported; there are: {known}"
        if not interrupted and not error:
            self._trial["reached"] = pause_at if on_the_way else self._trial["length"]
        said = {} if error or interrupted else {f"{METRIC}{name}": v for name, v in reached.metrics.items()}
        return {
            **said,
            ENDED: reached.finished and not error,
            FAILED: error,
            INTERRUPTED: interrupted,
            STEP: reached.step,
            SECONDS: self._run.seconds,
            MICRO_BATCH: self._run.plan.preferred.micro_batch,
            "done": bool(reached.finished or error or interrupted),
            **({} if error or interrupted else {AT: self._reached}),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Say where the trial's state lies; with a copy of it where another trial may go on from it."""
        state = {"root": self._run.record.root, "reached": self._reached}
        if self._trial["exchanges"]:
            state["copy"] = hand_out(self._trial["sweep"], self._run.record.root)
        return state

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a state; another trial's is taken over."""
        self._trial["reached"] = checkpoint["reached"]
        if checkpoint["root"] != self._run.record.root and checkpoint.get("copy"):
            take_over(self._trial["sweep"], checkpoint["copy"], self._run.record.root)

    def cleanup(self) -> None:
        """Let the workers go."""
        if self._gang:
            self._gang.stop()
            self._gang = None

    def _warm(self, plan: Plan) -> Gang:
        """Workers as the plan wants them: those there are, if they are such."""
        shape = (plan.preferred.world_size, plan.resources)
        if self._gang and self._shape != shape:
            self.cleanup()
        if self._gang is None:
            group = ray.util.get_current_placement_group()
            self._gang, self._shape = Gang(shape[0], shape[1], {}, group=group), shape
        return self._gang
