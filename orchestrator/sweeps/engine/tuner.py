"""Ray Tune, set up for one sitting of a sweep."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import SearchAlgorithm

from orchestrator import paths
from orchestrator.config.schema import JobSpec, SchedulerName
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import open_store
from orchestrator.plans.types import Plan, WorkerResources
from orchestrator.runtime.launchers.ray import head_watch, session
from orchestrator.runtime.worker.context import Launch
from orchestrator.sweeps.engine.ledger import State
from orchestrator.sweeps.engine.trainable import (
    AT,
    ENDED,
    FAILED,
    INTERRUPTED,
    MICRO_BATCH,
    SECONDS,
    STEP,
    WarmTrial,
    metrics_of,
)
from orchestrator.sweeps.search.schedulers import make_scheduler, tune_id

if TYPE_CHECKING:
    from orchestrator.sweeps.engine.conductor import Conductor

LOOK_S = 0.5
"""Between two looks for a reason to end."""
ALL_AT_ONCE = (SchedulerName.pbt, SchedulerName.hyperband)
"""These compare trials that take turns, so that all of them must be there."""


def run(conductor: Conductor, plan: Plan, at_once: int, scratch: Path | None) -> str:
    """Carry out all trials there are; returns why it ended before that, if it did."""
    _connect(conductor.definition.spec, plan, at_once)
    waits = conductor.definition.settings.scheduler in ALL_AT_ONCE
    ending = Ending(conductor)
    own = not conductor.definition.spec.cluster.address
    watched = head_watch.watched(conductor.lost, own=own)
    with watched, tempfile.TemporaryDirectory(prefix="orchestrator-tune-") as temporary:
        tuner = tune.Tuner(
            WarmTrial,
            tune_config=tune.TuneConfig(
                search_alg=Trials(conductor, conductor.definition.trials if waits else at_once, ending),
                scheduler=make_scheduler(conductor.definition, conductor.book, conductor.changed, conductor.goes_on),
                num_samples=conductor.definition.trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch or temporary),
                failure_config=tune.FailureConfig(max_failures=conductor.definition.settings.retries),
                callbacks=[Notes(conductor)],
                stop=ending,
                verbose=0,
            ),
        )
        tuner.fit()
    return ending.reason


def _connect(spec: JobSpec, plan: Plan, at_once: int) -> None:
    """Join the cluster, or start a Ray with room for so many trials."""
    workers = plan.preferred.world_size * at_once
    launch = Launch(run_id="", attempt=0, root="", project="", world_size=workers, plan={})
    session.connect(spec.cluster.address or "", launch, plan.resources)
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)


def bundles(plan: Plan, spec: JobSpec) -> tune.PlacementGroupFactory:
    """What a trial holds: the places of its workers, in which the process that leads them takes none."""
    selector = dict(spec.cluster.labels)
    workers = plan.preferred.world_size
    strategy = "STRICT_PACK" if spec.cluster.nodes == 1 else spec.cluster.placement.value.upper()
    more = {"bundle_label_selector": [selector] * workers} if selector else {}
    return tune.PlacementGroupFactory([{}, *[_bundle(plan.resources)] * workers], strategy=strategy, **more)


def _bundle(resources: WorkerResources) -> dict[str, float]:
    given = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory}
    return {name: amount for name, amount in given.items() if amount}


class Trials(SearchAlgorithm):  # type: ignore[misc]
    """Hands Ray Tune one trial after the other, never more than may be under way."""

    def __init__(self, conductor: Conductor, at_once: int, ending: Ending) -> None:
        self._conductor = conductor
        self._at_once = at_once
        self._ending = ending
        self._live: set[str] = set()
        self._handed_out: Counter[int] = Counter()
        self._experiment: Any = None

    @property
    def total_samples(self) -> int:
        """How many trials there will be."""
        return int(self._conductor.definition.trials)

    def add_configurations(self, experiments: Any) -> None:
        """Take what all trials have in common."""
        (self._experiment,) = experiments if isinstance(experiments, list) else [experiments]

    def next_trial(self) -> TuneTrial | None:
        """The next trial, when there is room for one; whoever comes again does so under another name."""
        if self.is_finished() or len(self._live) >= self._at_once or self._ending.reason:
            return None
        if (following := self._conductor.next()) is None:
            return None
        trial, plan = following
        known_as = f"{tune_id(trial.number)}{'x' * self._handed_out[trial.number]}"
        self._handed_out[trial.number] += 1
        self._live.add(known_as)
        spec = self._experiment.spec
        return TuneTrial(
            spec["run"],
            config=self._conductor.config(trial),
            trial_id=known_as,
            experiment_tag=known_as,
            placement_group_factory=bundles(plan, self._conductor.definition.spec),
            stopping_criterion={},
            checkpoint_config=spec.get("checkpoint_config"),
            max_failures=self._conductor.definition.settings.retries,
            storage=spec.get("storage"),
        )

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """There is room again."""
        self._live.discard(trial_id)

    def is_finished(self) -> bool:
        """Whether there are no more trials to begin."""
        return bool(self._finished or self._ending.reason or not self._conductor.has_more())


class Notes(Callback):  # type: ignore[misc]
    """Writes down what happens to trials."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """A process leads the trial."""
        self._conductor.begun(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A rung was reached."""
        self._note_micro_batch(trial.config, result)
        if AT in result and not result[ENDED]:
            said = metrics_of(result)
            self._conductor.reached(trial.config["number"], result[AT], result[STEP], said, result[SECONDS])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """A trial is over: done, failed, or taken from its process by the scheduler."""
        result, number = trial.last_result or {}, trial.config["number"]
        self._note_micro_batch(trial.config, result)
        if result.get(INTERRUPTED) or SECONDS not in result:
            return
        if result[FAILED] or result[ENDED]:
            state = State.failed if result[FAILED] else State.finished
            self._conductor.ended(number, state, metrics_of(result), result[SECONDS], result[FAILED])
        else:
            self._conductor.left_out(number)

    def _note_micro_batch(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """A trial that ran out of memory says only in its results how it went on."""
        micro_batch = result.get(MICRO_BATCH)
        if micro_batch in [Plan.from_dict(plan).preferred.micro_batch for plan in config["smaller"]]:
            self._conductor.halved(config["number"], micro_batch)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """The process that leads a trial ended again and again, or failed, or ended before it took the trial up."""
        # Of the last, Ray Tune makes an error at once, though it would have tried again a moment later.
        if trial.should_recover() and self._conductor.try_again(trial.config["number"]):
            return
        error = trial.get_error() if hasattr(trial, "get_error") else None
        line = str(error).strip().splitlines()[-1] if error else "its process was lost"
        self._conductor.ended(trial.config["number"], State.failed, {}, 0.0, line)


class Ending(Stopper):  # type: ignore[misc]
    """Ends a sweep in order: trials that run save and end, and only then does Ray Tune."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._looked = 0.0
        self.reason = ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is ended by its results here."""
        return False

    def stop_all(self) -> bool:
        """Look for a reason now and then, and pass it on to the trials; Ray Tune itself need not stop anything."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        with contextlib.suppress(StorageError):  # it is asked again soon
            self._pass_on()
        return False

    def _pass_on(self) -> None:
        if not self.reason and (reason := self._conductor.reason_to_end()):
            self.reason = reason
            self._conductor.store.write(paths.STOP, f"{reason}\n")
        for trial in self._conductor.book.unfinished if self.reason else ():
            open_store(self._conductor.record.trial_root(trial.number)).write(paths.STOP, f"{self.reason}\n")
