"""A search over the settings of any Hydra app: values by our samplers, jobs by the app's launcher, in batches."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from orchestrator.config.schema import SearchName
from orchestrator.errors import ConfigError, OrchestratorError, PlanError, did_you_mean
from orchestrator.sweeps.definition import DEFAULT_TRIALS, MAX_GRID
from orchestrator.sweeps.report.report import beats
from orchestrator.sweeps.search.search import Search, make_search
from orchestrator.sweeps.space import grammar
from orchestrator.sweeps.space.space import Space, Values

RESULTS = "optimization_results.yaml"
"""In the folder of the multirun, as Hydra's other searching sweepers write it."""
MODES = ("min", "max")
Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
"""Runs a batch of jobs, each given as overrides; with the number of the first."""
log = logging.getLogger("orchestrator")


@dataclass(frozen=True, kw_only=True, slots=True)
class AppSweep:
    """What is searched, and how."""

    space: Space
    search: Search
    trials: int
    modes: tuple[str, ...]
    at_once: int
    fixed: tuple[str, ...]
    prefixes: Mapping[str, str]
    """`+` or `++` of keys that were given with it."""
    folder: Path

    def overrides(self, values: Values) -> list[str]:
        """What a job is given."""
        lines = self.space.overrides(values)
        return [*self.fixed, *(f"{self.prefixes.get(line.partition('=')[0], '')}{line}" for line in lines)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A job that returned what it was asked for."""

    number: int
    values: Values
    scores: tuple[float, ...]


def read(arguments: Sequence[str], settings: Mapping[str, Any], context: HydraContext, config: DictConfig) -> AppSweep:
    """What `hydra.sweeper` and the command line say."""
    with _as_hydra_tells():
        plain = OmegaConf.to_container(OmegaConf.create(dict(settings)), resolve=True)
        assert isinstance(plain, dict)
        return _read(arguments, plain, context, config)


def _read(arguments: Sequence[str], settings: Mapping[Any, Any], context: HydraContext, config: DictConfig) -> AppSweep:
    fixed, swept = grammar.split(arguments)
    known: Any = OmegaConf.to_container(config, resolve=False)

    def options(key: str) -> list[str] | None:
        return context.config_loader.get_group_options(key.partition("@")[0], ObjectType.CONFIG) or None

    space = grammar.read_app_space(swept, settings["params"], settings["constraints"], options, known)
    modes = tuple([settings["mode"]] if isinstance(settings["mode"], str) else settings["mode"])
    if not modes or any(mode not in MODES for mode in modes):
        raise ConfigError(f"hydra.sweeper.mode={settings['mode']} does not say which way is better.", "Set min or max.")
    for key in ("trials", "at_once"):
        if settings[key] is not None and settings[key] < 1:
            raise ConfigError(f"hydra.sweeper.{key}={settings[key]} is not 1 or more.")
    search = _search(settings, space)
    trials = _trials(space, search, settings["trials"])
    keys = [override.get_key_element() for override in swept]
    return AppSweep(
        space=space,
        search=make_search(search, space, settings["seed"], modes, trials),
        trials=trials,
        modes=modes,
        at_once=settings["at_once"],
        fixed=tuple(fixed),
        prefixes={key.lstrip("+"): key[: len(key) - len(key.lstrip("+"))] for key in keys},
        folder=Path(config.hydra.sweep.dir),
    )


def _search(settings: Mapping[Any, Any], space: Space) -> SearchName:
    given = settings["search"]
    if given is None:
        return SearchName.grid if space.is_finite and settings["trials"] is None else SearchName.tpe
    names = [name.value for name in SearchName]
    if given not in names:
        raise ConfigError(f"hydra.sweeper.search={given} is not known.", did_you_mean(given, names))
    return SearchName(given)


def _trials(space: Space, search: SearchName, given: int | None) -> int:
    if search is not SearchName.grid:
        return given or DEFAULT_TRIALS
    if not space.is_finite:
        raise PlanError("hydra.sweeper.search=grid needs a finite space.", "Name values, or set search=tpe.")
    size = sum(1 for _ in islice(space.grid(), MAX_GRID))
    return min(size, given or size)


def carry_out(sweep: AppSweep, launch: Launch) -> Any:
    """Run all jobs; returns the best value, or of several objectives the front."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    with _as_hydra_tells():
        for first in range(0, sweep.trials, sweep.at_once):
            numbers = range(first, min(first + sweep.at_once, sweep.trials))
            chosen = [sweep.search.ask(number) for number in numbers]
            returned = launch([sweep.overrides(values) for values in chosen], first)
            for number, values, job in zip(numbers, chosen, returned, strict=True):
                scores = _scores(job, sweep.modes)
                sweep.search.end(number, scores, pruned=False)
                if scores:
                    done.append(Done(number=number, values=values, scores=scores))
            _write(sweep, done)
        if not done:
            raise ConfigError(
                f"None of {sweep.trials} jobs returned a value.", "The function must return what is searched by."
            )
    best = front(done, sweep.modes)
    for one in best:
        log.info("best: %s with %s", _shown(one.scores), " ".join(sweep.space.overrides(one.values)))
    return best[0].scores[0] if len(sweep.modes) == 1 else [list(one.scores) for one in best]


def _scores(job: JobReturn, modes: Sequence[str]) -> tuple[float, ...] | None:
    """What a job returned; None when it failed or returned something else, which is told."""
    try:
        returned = job.return_value
    except Exception as error:  # noqa: BLE001  a job's own exception, whatever it is: the others go on
        log.warning("a job failed: %s: %s", type(error).__name__, error)
        return None
    given = returned if isinstance(returned, Sequence) and not isinstance(returned, str) else [returned]
    try:
        scores = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        scores = ()
    if len(scores) == len(modes) and all(map(math.isfinite, scores)):
        return scores
    log.warning("a job returned %r, and not %s", returned, "a number" if len(modes) == 1 else f"{len(modes)} numbers")
    return None


def front(done: Sequence[Done], modes: Sequence[str]) -> list[Done]:
    """The best job, or of several objectives those that no other one beats in all."""
    signs = [1.0 if mode == "min" else -1.0 for mode in modes]

    def point(job: Done) -> tuple[float, ...]:
        return tuple(sign * score for sign, score in zip(signs, job.scores, strict=True))

    if len(modes) == 1:
        return [min(done, key=point)] if done else []

    return [job for job in done if not any(beats(point(other), point(job)) for other in done)]


def _write(sweep: AppSweep, done: Sequence[Done]) -> None:
    best = front(done, sweep.modes)
    if len(sweep.modes) == 1:
        found: dict[str, Any] = {}
        if best:
            found = {"best_evaluated_params": best[0].values, "best_evaluated_value": best[0].scores[0]}
    else:
        found = {"solutions": [{"params": job.values, "values": list(job.scores)} for job in best]}
    OmegaConf.save(OmegaConf.create({"name": "orchestrator", **found}), sweep.folder / RESULTS)


def _shown(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.6g}" for score in scores)


@contextlib.contextmanager
def _as_hydra_tells() -> Iterator[None]:
    """Our errors as Hydra's, of which an app tells the line alone."""
    try:
        yield
    except OrchestratorError as error:
        raise CompactHydraException(f"{error.message} {error.hint}".strip()) from error
