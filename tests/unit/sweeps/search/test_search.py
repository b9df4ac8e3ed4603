"""How values are chosen, and that a search built anew from the ledger goes on as the first would have."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.schema import SearchName
from orchestrator.errors import PlanError
from orchestrator.sweeps.engine.ledger import ENDED, RUNG, TRIAL, Book
from orchestrator.sweeps.search.search import OptunaSearch, Search, make_search, replay
from orchestrator.sweeps.space.expressions import Expression
from orchestrator.sweeps.space.space import Choice, Parameter, Space, Span, Values

SPACE = Space(
    parameters=(
        Parameter(key="lr", domain=Span(low=1e-4, high=1, log=True)),
        Parameter(key="width", domain=Choice(values=(8, 16, 32), ordered=True)),
        Parameter(key="kind", domain=Choice(values=("a", "b"))),
        Parameter(key="depth", domain=Span(low=1, high=5, whole=True), when=Expression("kind == 'b'", "depth")),
    ),
    constraints=(Expression("width < 32 or lr < 0.5", "here"),),
)
OPTUNA = [SearchName.tpe, SearchName.gp, SearchName.cmaes]
CHANCE = [SearchName.random, SearchName.qmc]


def loss(values: Values) -> float:
    return float(abs(values["lr"] - 0.01) + values["width"] / 100 + (0.1 if values["kind"] == "a" else 0.0))


def make(name: SearchName, seed: int = 1) -> Search:
    return make_search(name, SPACE, seed, ["min"], 20)


def carry_on(search: Search, numbers: range, book: Book | None = None) -> list[Values]:
    """Trials of these numbers, each finished before the next; what happens goes into the book."""
    chosen = []
    for number in numbers:
        values = search.ask(number)
        chosen.append(values)
        ended: dict[str, Any] = {
            "state": "pruned" if number % 3 == 2 else "finished",
            "metrics": {"loss": loss(values)},
        }
        for entry in (
            {"kind": TRIAL, "number": number, "values": values, "overrides": []},
            {"kind": RUNG, "number": number, "at": 1, "step": 1, "metrics": {"loss": loss(values)}, "seconds": 0},
            {"kind": ENDED, "number": number, "seconds": 0, **ended},
        ):
            if book:
                book.take({"time": 0.0, **entry})
        search.rung(number, 1, [loss(values)])
        search.end(number, [loss(values)], pruned=number % 3 == 2)
    return chosen


@pytest.mark.parametrize("name", [*CHANCE, *OPTUNA])
def test_values_lie_in_the_space_and_meet_its_constraints(name: SearchName) -> None:
    for values in carry_on(make(name), range(12)):
        assert 1e-4 <= values["lr"] <= 1
        assert values["width"] in (8, 16, 32)
        assert ("depth" in values) == (values["kind"] == "b")
        assert values["width"] < 32 or values["lr"] < 0.5


@pytest.mark.parametrize("name", [*CHANCE, *OPTUNA])
def test_a_search_built_anew_from_the_ledger_goes_on_as_the_first_would_have(name: SearchName) -> None:
    book = Book()
    first = make(name)
    carry_on(first, range(12), book)
    further = carry_on(first, range(12, 16))
    again = make(name)
    replay(book, again, lambda metrics: [metrics["loss"]])
    assert carry_on(again, range(12, 16)) == further


def test_a_sampler_learns_from_a_trial_at_each_rung_and_counts_it_once() -> None:
    search = make(SearchName.tpe)
    assert isinstance(search, OptunaSearch)
    search.ask(0)
    search.rung(0, 1, [0.5])
    assert search._known[0].state.name == "RUNNING"
    search.pause(0)
    assert search._known[0].state.name == "PRUNED"
    search.rung(0, 3, [0.3])
    search.pause(0)
    assert search._known[0].intermediate_values == {1: 0.5, 3: 0.3}
    search.ask(1)
    search.end(0, [0.2], pruned=False)
    assert [(trial.state.name, trial.values) for trial in search._known.values()] == [
        ("COMPLETE", [0.2]),
        ("RUNNING", None),
    ]


@pytest.mark.parametrize("name", CHANCE)
def test_the_nth_trial_does_not_depend_on_those_before(name: SearchName) -> None:
    assert make(name).ask(7) == carry_on(make(name), range(8))[7]
    assert make(name).ask(7) != make(name, seed=2).ask(7)


def test_evenly_spread_trials_fill_every_part_of_a_range() -> None:
    space = Space(parameters=(Parameter(key="x", domain=Span(low=0, high=1)),))
    search = make_search(SearchName.qmc, space, 0, ["min"], 16)
    assert sorted(int(search.ask(number)["x"] * 16) for number in range(16)) == list(range(16))


def test_grid_lists_the_last_parameter_fastest() -> None:
    space = Space(
        parameters=(
            Parameter(key="a", domain=Choice(values=(1, 2))),
            Parameter(key="b", domain=Choice(values=("x", "y"))),
        )
    )
    search = make_search(SearchName.grid, space, 0, ["min"], 4)
    assert [tuple(search.ask(number).values()) for number in range(4)] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


@pytest.mark.parametrize("name", [SearchName.tpe, SearchName.gp])
def test_samplers_learn(name: SearchName) -> None:
    """The last trials are better than the first, which chance chose."""
    space = Space(parameters=(Parameter(key="x", domain=Span(low=-10, high=10)),))
    early = late = 0.0
    seeds, trials = (6, 30) if name is SearchName.tpe else (1, 20)
    for seed in range(seeds):
        search = make_search(name, space, seed, ["min"], 40)
        for number in range(trials):
            x = search.ask(number)["x"]
            search.end(number, [x * x], pruned=False)
            early += x * x if number < 10 else 0.0
            late += x * x if number >= trials - 10 else 0.0
    assert late < early / 1.5


def test_several_objectives_and_failed_trials_are_told() -> None:
    search = make_search(SearchName.tpe, SPACE, 0, ["min", "max"], 20)
    for number in range(6):
        search.ask(number)
        search.end(number, None if number == 2 else [1.0, float("nan") if number == 3 else 2.0], pruned=False)
    assert isinstance(search, OptunaSearch)
    assert {number: trial.values for number, trial in search._known.items()} == {
        key: [1.0, 2.0] for key in (0, 1, 4, 5)
    }


@pytest.mark.parametrize("name", [*CHANCE, SearchName.tpe])
def test_a_space_without_a_trial(name: SearchName) -> None:
    space = Space(
        parameters=(Parameter(key="x", domain=Span(low=0, high=1)),), constraints=(Expression("x > 2", "here"),)
    )
    with pytest.raises(PlanError, match=r"None of 1000 trials drawn meets sweep\.constraints"):
        make_search(name, space, 0, ["min"], 4).ask(0)
