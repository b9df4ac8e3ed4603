"""Search spaces, from Hydra's grammar to trials."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.schema import Sweep
from orchestrator.config.variants import Variants
from orchestrator.errors import ConfigError
from orchestrator.sweeps.space import grammar
from orchestrator.sweeps.space.expressions import Expression
from orchestrator.sweeps.space.space import Choice, Space, Span, as_override


def space_of(*overrides: str, params: dict[str, Any] | None = None, constraints: list[str] | None = None) -> Space:
    fixed, swept = grammar.split(["job=digits", *overrides])
    return grammar.read_space(swept, Sweep(params=params or {}, constraints=constraints or []), Variants(fixed))


def domain(override: str) -> Choice | Span:
    (parameter,) = space_of(override).parameters
    return parameter.domain


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("batch=32,64", Choice(values=(32, 64))),
        ("batch=choice(64,32,64)", Choice(values=(64, 32))),
        ("batch=sort(choice(64,32))", Choice(values=(32, 64))),
        ("batch=range(16,65,16)", Choice(values=(16, 32, 48, 64), ordered=True)),
        ("optimizer.lr=range(0.1,0.4,0.1)", Choice(values=(0.1, 0.2, 0.3), ordered=True)),
        ("optimizer.lr=interval(0,1)", Span(low=0, high=1)),
        ("optimizer.lr=tag(log,interval(1e-5,1e-1))", Span(low=1e-5, high=1e-1, log=True)),
        ("batch=interval(8,64)", Span(low=8, high=64, whole=True)),
        ("model.width=tag(log,int(interval(8,512)))", Span(low=8, high=512, log=True, whole=True)),
        ("job.clip=interval(0.5,2)", Span(low=0.5, high=2)),
        ("optimizer=adamw,sgd", Choice(values=("adamw", "sgd"))),
        ("optimizer.betas=[0.9,0.99],[0.8,0.9]", Choice(values=([0.9, 0.99], [0.8, 0.9]))),
        ("job.clip=null,1.0", Choice(values=(None, 1.0))),
    ],
)
def test_hydras_grammar(override: str, expected: Choice | Span) -> None:
    assert domain(override) == expected


def test_glob_names_options_of_a_group() -> None:
    (parameter,) = space_of("optimizer=glob(ada*)").parameters
    assert parameter.is_group
    assert parameter.domain == Choice(values=("adam", "adamw"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1,2", "optimizer.lrr is not a setting (on the command line: optimizer.lrr=1,2). Did you mean 'optimizer.lr'?"),
        ("optimizer.name=interval(0,1)", "optimizer.name is not a number, so that an interval makes no sense (on the command line: optimizer.name=interval(0,1)): it is one of adamw, adam, sgd. Name its values: optimizer.name=choice(...)."),
        ("model._target_=interval(0,1)", "model._target_ is not a number, so that an interval makes no sense (on the command line: model._target_=interval(0,1)): its value is"),
        ("batch=range(9,1)", "batch has no value to try (on the command line: batch=range(9,1)): its space is empty."),
        ("optimizer=glob(x*)", "optimizer has no value to try (on the command line: optimizer=glob(x*)): its space is empty."),
        ("optimizer=adamv,sgd", "optimizer has no option 'adamv' (on the command line: optimizer=adamv,sgd). Options: adam, adamw."),
        ("optimizer.lr=tag(log,interval(0,1))", "optimizer.lr: on a logarithmic scale an interval begins above 0, not at 0"),
        ("optimizer.lr=interval(1,0)", "optimizer.lr: the interval from 1 to 0 is empty"),
        ("batch=interval(1.5,4)", "batch is a whole number, and the interval ends at 1.5 and 4"),
        ("storage.path=a,b", "storage.path cannot differ between the trials of a sweep"),
        ("batch=glob(*)", "glob() is for config groups, and batch is none"),
        ("optimizer.lr=interval(", "Override 'optimizer.lr=interval(' cannot be read: a ')' is missing."),
        ("batch=64", "Nothing is swept: no setting has more than one value."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of(override)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch": 64}, "batch=64 is one value, and no space (in sweep.params: batch)."),
        ({"batch": {"spaces": "1,2"}}, "sweep.params.batch has no 'spaces'."),
        ({"batch": {"when": "1"}}, "sweep.params.batch lacks `space`."),
        ({"batch": {"space": "1,2", "when": "optimizr.lr > 1"}}, "sweep.params.batch: 'optimizr.lr > 1' speaks of optimizr.lr, which is not there."),
        ({"batch": {"space": "1,2", "when": "open('x')"}}, "sweep.params.batch: \"open('x')\" has no place in a condition."),
        ({"batch": {"space": "1,2", "when": "a b"}}, "sweep.params.batch: 'a b' is not a condition"),
        ({"batch": {"space": "1,2", "when": "batch > 1"}}, "sweep.params.batch: its condition (`when`) speaks of itself."),
        ({"batch": {"space": "1,2", "when": "job.clip > 1"}, "job.clip": {"space": "1,2", "when": "batch > 1"}}, "The conditions (`when`) of batch, job.clip wait for each other."),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_said_in_one_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of(params=params)
    assert str(caught.value).startswith(message)


def test_the_command_line_comes_on_top_of_files_and_keeps_their_conditions() -> None:
    params = {"optimizer": ["adamw", "sgd"], "batch": {"space": "8,16", "when": "optimizer == 'sgd'"}}
    space = space_of("batch=32,64", params=params)
    assert list(space.grid()) == [
        {"optimizer": "adamw"},
        {"optimizer": "sgd", "batch": 32},
        {"optimizer": "sgd", "batch": 64},
    ]


def test_conditions_and_constraints_cut_the_grid() -> None:
    params = {
        "optimizer.momentum": {"space": [0.0, 0.9], "when": "optimizer == 'sgd'"},
        "optimizer": "choice(adamw,sgd)",
        "model.width": [8, 16],
        "batch": [32, 64],
    }
    space = space_of(params=params, constraints=["model.width * batch <= 512", "job.epochs == 10"])
    trials = list(space.grid())
    assert len(trials) == 3 * (1 + 2)
    assert all(trial["model.width"] * trial["batch"] <= 512 for trial in trials)
    assert all(("optimizer.momentum" in trial) == (trial["optimizer"] == "sgd") for trial in trials)


def test_groups_are_chosen_before_settings() -> None:
    space = space_of("optimizer.lr=0.1,0.2", "model=small_resnet,inception")
    first = next(iter(space.grid()))
    assert space.choices(first) == ["model=small_resnet"]
    assert space.settings(first) == ["optimizer.lr=0.1"]
    assert space.overrides(first) == ["model=small_resnet", "optimizer.lr=0.1"]


@pytest.mark.parametrize(("place", "value"), [(0.0, 1), (0.99, 3), (0.34, 2)])
def test_whole_numbers_of_a_span_are_equally_likely(place: float, value: int) -> None:
    assert Span(low=1, high=3, whole=True).at(place) == value


def test_a_logarithmic_span_has_its_middle_at_the_geometric_mean() -> None:
    assert Span(low=1e-4, high=1, log=True).at(0.5) == pytest.approx(1e-2)
    assert Span(low=1e-4, high=1, log=True).at(1.0) == 1


@pytest.mark.parametrize(
    "value", [1, 0.001, 1e-05, True, None, "sgd", "a b", "1e3", "true", "x,y", [0.9, 0.99], {"a": 1}, "${x}", "it's"]
)
def test_an_override_is_read_back_as_the_value_it_was_made_of(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([as_override("key", value)])
    assert parsed.value() == value
    assert type(parsed.value()) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b == 2", True),
        ("a.b in [1, 2]", True),
        ("1 < a.b < 2", False),
        ("not a.b > 3 and c == 'x'", True),
        ("c == 'y' or c != 'x'", False),
        ("(a.b + 4) * 2 // 5 % 2 - -1 / 2 == 0.5", True),
        ("c == null or c == true", False),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    values = {"a.b": 2, "c": "x"}
    assert Expression(text, "here").holds(values.__getitem__) is expected


def test_a_condition_that_cannot_be_worked_out() -> None:
    with pytest.raises(ConfigError, match=r"here: 'c > 1' cannot be worked out: '>' not supported"):
        Expression("c > 1", "here").holds({"c": "x"}.__getitem__)
