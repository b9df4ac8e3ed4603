"""From what people write to a space: Hydra's own sweep grammar, on the command line and in conf/sweep/*.yaml."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException, OverrideParseException

from orchestrator.config.explain import diagnose, keys
from orchestrator.config.schema import Sweep
from orchestrator.config.variants import Variants
from orchestrator.errors import ConfigError, did_you_mean
from orchestrator.sweeps.space.expressions import Expression
from orchestrator.sweeps.space.space import Base, Choice, Parameter, Space, Span, Values

APP = "hydra.sweeper"
"""Where an app of a person's own has what `sweep` has here."""
EXAMPLE = "Write for example optimizer.lr='tag(log,interval(1e-4,1e-1))' or model.width=64,128."


def split(overrides: Sequence[str]) -> tuple[list[str], list[Override]]:
    """The overrides that hold for all trials, and those that name several values."""
    fixed, swept = [], []
    for line in overrides:
        override = _parsed(line)
        if override.is_sweep_override():
            swept.append(override)
        else:
            fixed.append(line)
    return fixed, swept


def read_space(swept: Sequence[Override], settings: Sweep, variants: Variants) -> Space:
    """The space of a sweep: the config's `sweep.params`, and on top of them what the command line sweeps."""
    written = _read(swept, settings.params, "sweep")
    groups = {key: options for key in written if (options := variants.options(key)) is not None}
    for key, what in written.items():
        _check_key(key, what, groups)
    # What there is to look at does not depend on the groups' options as a rule; conditions see the trial's own.
    return _space(written, groups, _Base(variants), settings.constraints, "sweep")


def read_app_space(
    swept: Sequence[Override],
    params: Mapping[str, Any],
    constraints: Sequence[str],
    options: Callable[[str], list[str] | None],
    config: Mapping[str, Any],
) -> Space:
    """The space of a Hydra app of a person's own, whose settings we know only from its config.

    `options`: of a config group; None where there is no such group.
    """
    written = _read(swept, params, APP)
    groups = {key: found for key in written if (found := options(key)) is not None}
    return _space(written, groups, lambda choices: config, constraints, APP, ours=False)


def _read(swept: Sequence[Override], params: Mapping[str, Any], source: str) -> dict[str, _Written]:
    written = {key: _Written.of(key, value, f"{source}.params") for key, value in params.items()}
    for override in swept:
        key = override.get_key_element().lstrip("+")
        when = written[key].when if key in written else None
        written[key] = _Written(override=override, where=diagnose.typed(override), when=when)
    if not written:
        raise ConfigError("Nothing is swept: no setting has more than one value.", EXAMPLE)
    return written


def _space(
    written: Mapping[str, _Written],
    groups: Mapping[str, list[str]],
    base: Base,
    constraints: Sequence[str],
    source: str,
    *,
    ours: bool = True,
) -> Space:
    """`ours`: our schema says which values settings take, and those of a whole number are whole."""
    config = base(())
    parameters = []
    for key, what in written.items():
        kind, present = (_kind(key), _value_at(config, key)) if ours else _unknown_kind(_value_at(config, key))
        domain = _domain(what, groups.get(key), present, kind)
        parameters.append(Parameter(key=key, domain=domain, is_group=key in groups, when=what.when))
    conditions = tuple(Expression(text, f"{source}.constraints") for text in constraints)
    space = Space(parameters=tuple(_in_order(parameters)), constraints=conditions, base=base)
    _check_conditions(space)
    return space


class _Base:
    """The config without a trial's settings."""

    def __init__(self, variants: Variants) -> None:
        self._variants = variants
        self._known: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def __call__(self, choices: Sequence[str]) -> Mapping[str, Any]:
        key = tuple(choices)
        if key not in self._known:
            self._known[key] = self._variants.load(choices).resolved
        return self._known[key]


class _Written:
    """One parameter as it was written."""

    def __init__(self, override: Override, where: str, when: Expression | None = None) -> None:
        self.override = override
        self.where = where
        self.when = when

    @classmethod
    def of(cls, key: str, value: Any, source: str) -> _Written:
        """An entry of `sweep.params`: a text in Hydra's grammar, a list, or `{space: ..., when: ...}`."""
        where = f" (in {source}: {key})"
        when = None
        if isinstance(value, Mapping):
            unknown = sorted(set(value) - {"space", "when"})
            if unknown or "space" not in value:
                what = f"has no {unknown[0]!r}" if unknown else "lacks `space`"
                raise ConfigError(f"{source}.{key} {what}.", "Write {space: ..., when: ...}, or the space alone.")
            when = Expression(str(value["when"]), f"{source}.{key}") if value.get("when") else None
            value = value["space"]
        text = value if isinstance(value, str) else Override._get_value_element_as_str(value)
        if isinstance(value, list):
            text = f"choice({text[1:-1]})"
        override = _parsed(f"{key}={text}")
        if not override.is_sweep_override():
            raise ConfigError(f"{key}={text} is one value, and no space{where}.", EXAMPLE)
        return cls(override, where, when)


def _parsed(line: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([line])[0]
    except OverrideParseException as error:
        raise diagnose.unreadable_override(error) from error
    except HydraException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"Override {line!r} cannot be read: {reason}.", EXAMPLE) from error


def _check_key(key: str, what: _Written, groups: Mapping[str, list[str]]) -> None:
    override = what.override
    if key not in groups and not keys.exists(override.key_or_group):
        known = [*groups, *keys.schema_keys()]
        hint = keys.suggest(override.key_or_group, groups) or did_you_mean(key, known)
        raise ConfigError(f"{key} is not a setting{what.where}.", hint)
    if override.key_or_group.partition(".")[0] in ("sweep", "storage", "tracking"):
        raise ConfigError(f"{key} cannot differ between the trials of a sweep{what.where}.", "Give it one value.")


def _kind(key: str) -> str:
    """Which values a setting of ours takes, in words; empty: the config does not say."""
    return keys.describe(key) if keys.normal(key) in keys.schema_keys() else ""


def _unknown_kind(present: Any) -> tuple[str, Any]:
    """Where no type is known: what is missing or a number now may be any number."""
    is_open = present == "???" or (isinstance(present, int) and not isinstance(present, bool))
    return "", None if is_open else present


def _domain(what: _Written, options: list[str] | None, present: Any, kind: str) -> Choice | Span:
    override = what.override
    sweep = override._value
    if isinstance(sweep, IntervalSweep):
        from orchestrator.sweeps.space.intervals import span

        return span(override, what.where, present, kind)
    ordered = False
    if isinstance(sweep, Glob):
        if options is None:
            raise ConfigError(f"glob() is for config groups, and {override.key_or_group} is none{what.where}.", EXAMPLE)
        values: list[Any] = sweep.filter(options)
    elif isinstance(sweep, RangeSweep):
        if not sweep.step:
            raise ConfigError(f"{override.input_line}: a range needs a step other than 0.", EXAMPLE)
        values, ordered = _range(sweep), True
    elif isinstance(sweep, ChoiceSweep):
        values, ordered = [Override._convert_value(value) for value in sweep.list], "ordered" in sweep.tags
    else:
        raise ConfigError(f"{override.input_line} is no space{what.where}.", EXAMPLE)
    unknown = [value for value in values if options is not None and value not in options]
    if unknown:
        raise diagnose.no_option(override.key_or_group, str(unknown[0]), options or [], what.where)
    return Choice(values=_distinct(values, override, what.where), ordered=ordered)


def _range(sweep: RangeSweep) -> list[Any]:
    """The numbers of a range, as they are written: 0.3 and not 0.30000000000000004."""
    start, stop, step = (Decimal(str(end)) for end in (sweep.start, sweep.stop, sweep.step))
    whole = all(isinstance(end, int) for end in (sweep.start, sweep.stop, sweep.step))
    count = max(0, math.ceil((stop - start) / step))
    numbers = [start + number * step for number in range(count)]
    return [int(number) if whole else float(number) for number in numbers]


def _distinct(values: list[Any], override: Override, where: str) -> tuple[Any, ...]:
    if not values:
        raise ConfigError(f"{override.key_or_group} has no value to try{where}: its space is empty.", EXAMPLE)
    different: list[Any] = []
    for value in values:
        if not any(value == other and type(value) is type(other) for other in different):
            different.append(value)
    return tuple(different)


def _value_at(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in keys.normal(key).split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _in_order(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Groups first; each parameter after those that its condition speaks of."""
    left = sorted(parameters, key=lambda parameter: (not parameter.is_group, parameter.when is not None))
    done: list[Parameter] = []
    while left:
        waiting = {parameter.key for parameter in left}
        ready = next((p for p in left if p.when is None or not waiting & set(p.when.keys) - {p.key}), None)
        if ready is None:
            names = ", ".join(sorted(waiting))
            raise ConfigError(f"The conditions (`when`) of {names} wait for each other.", "Break the circle.")
        if ready.when is not None and ready.key in ready.when.keys:
            raise ConfigError(f"sweep.params.{ready.key}: its condition (`when`) speaks of itself.")
        left.remove(ready)
        done.append(ready)
    return done


def _check_conditions(space: Space) -> None:
    """Look every condition up once, so that a misspelt key is told before anything starts."""
    values: Values = {parameter.key: parameter.domain.at(0.0) for parameter in space.parameters}
    spoken = [*space.constraints, *(parameter.when for parameter in space.parameters if parameter.when)]
    for expression in spoken:
        expression.holds(space._lookup(values))
