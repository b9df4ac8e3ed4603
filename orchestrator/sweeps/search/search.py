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
from orchestrator.sweeps.engine.ledger import CHANGED, ENDED, PAUSED, RUNG, TRIAL, Book, State
from orchestrator.sweeps.space.space import Choice, Parameter, Space, Values

TRIES = 1000
"""Draws before a space counts as one that no trial meets the constraints of."""


class Search(Protocol):
    """Chooses values."""

    def ask(self, number: int) -> Values:
        """The values of the trial with this number."""

    def rung(self, number: int, at: float, scores: Sequence[float]) -> None:
        """A trial has reached a rung with these values of the objectives."""

    def pause(self, number: int) -> None:
        """A trial stands at its rung, perhaps for good."""

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
        elif entry["kind"] == PAUSED:
            search.pause(number)
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

    def pause(self, number: int) -> None:
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
    """A sampler of Optuna. Each question goes to a new study of what is known, and is seeded by its number, so that
    nothing else counts.
    """

    def __init__(self, name: SearchName, space: Space, seed: int, directions: Sequence[str]) -> None:
        try:
            import optuna
        except ImportError as error:
            hint = "Install it: pip install 'orchestrator[sweep]'; or set sweep.search=random."
            raise MachineError(f"sweep.search={name.value} needs Optuna, which is not installed.", hint) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._name, self._space, self._seed = name, space, seed
        self._directions: list[Any] = ["minimize" if direction == "min" else "maximize" for direction in directions]
        self._known: dict[int, Any] = {}
        """Trials as Optuna freezes them, without those that say nothing: that failed, or went on with other values."""

    def ask(self, number: int) -> Values:
        """The values that the sampler thinks best, given what it knows."""
        for attempt in range(TRIES):
            with _quiet():
                study = self._study(self._sampler(f"{self._seed}/{number}/{attempt}"))
                trial = study.ask()
                values = self._space.draw(lambda parameter, trial=trial: _suggest(trial, parameter))  # type: ignore[misc]
                if values is not None:
                    self._know(number, study.get_trials(deepcopy=False)[-1])
                    return values
        raise _none_admitted()

    def _study(self, sampler: Any) -> Any:
        import optuna

        study = optuna.create_study(directions=self._directions, sampler=sampler)
        study.add_trials(self._known.values())
        return study

    def ask_again(self, number: int, values: Mapping[str, Any]) -> None:
        """Take up a trial whose values are known."""
        # Of CMA-ES, the question leaves its state in the trial; the same question has the same answer.
        if self._name is SearchName.cmaes and self.ask(number) == values:
            return
        from optuna.trial import FixedTrial

        parameters = [parameter for parameter in self._space.parameters if parameter.key in values]
        trial = FixedTrial({parameter.key: _inner(parameter, values[parameter.key]) for parameter in parameters})
        for parameter in parameters:
            _suggest(trial, parameter)
        self._know(number, trial)

    def _know(self, number: int, trial: Any, state: str = "RUNNING", values: Sequence[float] | None = None) -> None:
        import optuna

        self._known[number] = optuna.trial.create_trial(
            state=optuna.trial.TrialState[state],
            values=values,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=trial.system_attrs,
            intermediate_values=getattr(trial, "intermediate_values", None),
        )

    def forget(self, number: int) -> None:
        """A trial goes on with other values than it was asked for, so that its result says nothing of those."""
        self._known.pop(number, None)

    def rung(self, number: int, at: float, scores: Sequence[float]) -> None:
        """Note a value on the way."""
        if number in self._known and len(scores) == 1:
            self._known[number].intermediate_values[int(at)] = scores[0]

    def pause(self, number: int) -> None:
        """Learn from a trial as if it were over, which it may be; when it comes further, that counts."""
        if number in self._known:
            self._know(number, self._known[number], "PRUNED")

    def end(self, number: int, scores: Sequence[float] | None, *, pruned: bool) -> None:
        """Note the result. A number that is none counts as a failure."""
        if scores is None or any(value != value for value in scores):
            self.forget(number)
        elif number in self._known:
            self._know(number, self._known[number], *(("PRUNED", None) if pruned else ("COMPLETE", scores)))

    def _sampler(self, seed: str) -> Any:
        from optuna import samplers

        number = random.Random(seed).randrange(2**31)
        with _quiet():
            if self._name is SearchName.gp:
                return samplers.GPSampler(seed=number, deterministic_objective=False)
            if self._name is SearchName.cmaes:
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
