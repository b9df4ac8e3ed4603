"""How the values of trials are chosen: by listing, by chance, spread evenly, or from what earlier trials gave.

The n-th trial of grid, random and qmc follows from the space, the seed and n alone. Optuna's samplers also go by the
results so far, which are told to them anew, in the same order, when a sweep goes on.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.config.schema import SearchName
from orchestrator.errors import MachineError, PlanError
from orchestrator.sweep.ledger import CHANGED, ENDED, RUNG, TRIAL, Book, State
from orchestrator.sweep.space import Choice, Parameter, Space, Values

TRIES = 1000
"""Draws before a space counts as one that no trial meets the constraints of."""


class Search(Protocol):
    """Chooses values."""

    def ask(self, number: int) -> Values:
        """The values of the trial with this number."""

    def rung(self, number: int, at: float, scores: Sequence[float]) -> None:
        """A trial has reached a rung with these values of the objectives."""

    def end(self, number: int, scores: Sequence[float] | None, *, pruned: bool) -> None:
        """A trial is over; None: it failed."""


def make_search(name: SearchName, space: Space, seed: int, directions: Sequence[str], trials: int) -> Search:
    """The search that the config names."""
    if name is SearchName.grid:
        listed = list(space.grid())
        return Fixed(lambda number: listed[number])
    if name is SearchName.random:
        return Fixed(lambda number: draw_random(space, seed, number))
    if name is SearchName.qmc:
        return Fixed(lambda number: draw_spread(space, seed, number, trials))
    return OptunaSearch(name, space, seed, directions)


def replay(book: Book, search: Search, scores: Callable[[Mapping[str, float]], list[float]]) -> None:
    """Tell a new search what the ledger knows, line by line."""
    for entry in book.order:
        number = entry.get("number", -1)
        if entry["kind"] == TRIAL and isinstance(search, OptunaSearch):
            search.ask_again(number, entry["values"])
        elif entry["kind"] == CHANGED and isinstance(search, OptunaSearch):
            search.forget(number)
        elif entry["kind"] == RUNG:
            search.rung(number, entry["at"], scores(entry["metrics"]))
        elif entry["kind"] == ENDED:
            state = State(entry["state"])
            found = None if state is State.failed else scores(entry["metrics"])
            search.end(number, found, pruned=state is State.pruned)


class Fixed:
    """The trials follow from their numbers alone."""

    def __init__(self, ask: Callable[[int], Values]) -> None:
        self.ask = ask

    def rung(self, number: int, at: float, scores: Sequence[float]) -> None:
        """Changes nothing."""

    def end(self, number: int, scores: Sequence[float] | None, *, pruned: bool) -> None:
        """Changes nothing."""


def draw_random(space: Space, seed: int, number: int) -> Values:
    """The random trial with this number."""
    for attempt in range(TRIES):
        chance = random.Random(f"{seed}/{number}/{attempt}")
        values = space.draw(lambda parameter, chance=chance: parameter.domain.at(chance.random()))  # type: ignore[misc]
        if values is not None:
            return values
    raise _none_admitted()


def draw_spread(space: Space, seed: int, number: int, trials: int) -> Values:
    """The trial with this number of those that are spread evenly; trials that break a constraint are passed over."""
    from scipy.stats import qmc

    for attempt in range(TRIES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of numbers that are no powers of two
            points = qmc.Sobol(len(space.parameters), scramble=True, rng=seed)
            if index := number + attempt * trials:
                points.fast_forward(index)
            (point,) = points.random(1)
        places = {parameter.key: float(place) for parameter, place in zip(space.parameters, point, strict=True)}
        values = space.draw(lambda parameter, places=places: parameter.domain.at(places[parameter.key]))  # type: ignore[misc]
        if values is not None:
            return values
    raise _none_admitted()


def _none_admitted() -> PlanError:
    return PlanError(f"None of {TRIES} trials drawn meets sweep.constraints.", "Loosen them, or widen the space.")


class OptunaSearch:
    """A sampler of Optuna, on a study in memory. Each question is seeded by its number, so that nothing else counts."""

    def __init__(self, name: SearchName, space: Space, seed: int, directions: Sequence[str]) -> None:
        try:
            import optuna
        except ImportError as error:
            hint = "Install it: pip install 'orchestrator[sweep]'; or set sweep.search=random."
            raise MachineError(f"sweep.search={name.value} needs Optuna, which is not installed.", hint) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._name, self._space, self._seed = name, space, seed
        self._single = len(directions) == 1
        words: list[Any] = ["minimize" if direction == "min" else "maximize" for direction in directions]
        self._study = optuna.create_study(directions=words)
        self._open: dict[int, Any] = {}

    def ask(self, number: int) -> Values:
        """The values that the sampler thinks best, given what it knows."""
        for attempt in range(TRIES):
            self._study.sampler = self._sampler(f"{self._seed}/{number}/{attempt}")
            with _quiet():
                trial = self._study.ask()
                values = self._space.draw(lambda parameter, trial=trial: _suggest(trial, parameter))  # type: ignore[misc]
            if values is not None:
                self._open[number] = trial
                return values
            self._fail(trial)
        raise _none_admitted()

    def ask_again(self, number: int, values: Mapping[str, Any]) -> None:
        """Take up a trial whose values are known."""
        if self._name is SearchName.cmaes:
            # It keeps its state in the trials that it was asked for. The same questions have the same answers.
            if self.ask(number) == values:
                return
            self._fail(self._open.pop(number))
        # The others need not work out what is known.
        self._study.sampler = self._sampler(f"{self._seed}/{number}/0", SearchName.random)
        parameters = {p.key: p for p in self._space.parameters if p.key in values}
        inner = {key: _inner(parameters[key], values[key]) for key in parameters}
        with _quiet():
            self._study.enqueue_trial(inner)
            trial = self._study.ask()
            for parameter in parameters.values():
                _suggest(trial, parameter)
        self._open[number] = trial

    def forget(self, number: int) -> None:
        """A trial goes on with other values than it was asked for, so that its result says nothing of those."""
        if trial := self._open.pop(number, None):
            self._fail(trial)

    def rung(self, number: int, at: float, scores: Sequence[float]) -> None:
        """Report a value on the way."""
        trial = self._open.get(number)
        if trial is not None and self._single:
            trial.report(scores[0], int(at))

    def end(self, number: int, scores: Sequence[float] | None, *, pruned: bool) -> None:
        """Tell the result. A number that is none counts as a failure."""
        from optuna.trial import TrialState

        trial = self._open.pop(number, None)
        if trial is None:
            return
        good = scores is not None and all(value == value for value in scores)
        with _quiet():
            if not good:
                self._fail(trial)
            elif pruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, list(scores or ()))

    def _fail(self, trial: Any) -> None:
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)

    def _sampler(self, seed: str, name: SearchName | None = None) -> Any:
        from optuna import samplers

        number = random.Random(seed).randrange(2**31)
        name = name or self._name
        with _quiet():
            if name is SearchName.random:
                return samplers.RandomSampler(seed=number)
            if name is SearchName.gp:
                return samplers.GPSampler(seed=number, deterministic_objective=False)
            if name is SearchName.cmaes:
                return samplers.CmaEsSampler(seed=number, warn_independent_sampling=False)
            return samplers.TPESampler(seed=number, multivariate=True, group=True, constant_liar=True)


def _suggest(trial: Any, parameter: Parameter) -> Any:
    """Ask for one value. Values of a choice are asked for by their number: Optuna knows only numbers and texts."""
    domain, key = parameter.domain, parameter.key
    if not isinstance(domain, Choice):
        if domain.whole:
            return trial.suggest_int(key, int(domain.low), int(domain.high), log=domain.log)
        return trial.suggest_float(key, domain.low, domain.high, log=domain.log)
    if domain.ordered:
        return domain.values[trial.suggest_int(key, 0, len(domain.values) - 1)]
    return domain.values[trial.suggest_categorical(key, list(range(len(domain.values))))]


def _inner(parameter: Parameter, value: Any) -> Any:
    """A value as the study has it."""
    return parameter.domain.values.index(value) if isinstance(parameter.domain, Choice) else value


class _quiet(warnings.catch_warnings):
    """Without Optuna's warnings of what it calls experimental."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
