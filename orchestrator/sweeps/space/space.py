"""A search space: which settings vary, over which values, under which conditions. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.sweeps.space.expressions import Expression, Lookup

Values = dict[str, Any]
"""What one trial sets: keys of settings, and groups, each with its value."""
Base = Callable[[Sequence[str]], Mapping[str, Any]]
"""From the options chosen for groups (`model=mlp`) to the config without the trial's settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]
    ordered: bool = False
    """Whether neighbours are alike, as the numbers of a range are."""

    def at(self, place: float) -> Any:
        """The value at a place between 0 and 1."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def __str__(self) -> str:
        shown = [_text(value) for value in self.values]
        if len(shown) > 8:
            shown = [*shown[:3], "...", *shown[-2:]]
        return f"{', '.join(shown)}  ({len(self.values)} values)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A number between two, both of which are in it."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, place: float) -> float | int:
        """The number at a place between 0 and 1."""
        if self.whole:
            return self._whole_at(place)
        if self.log:
            value = math.exp(math.log(self.low) + place * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + place * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def _whole_at(self, place: float) -> int:
        low, high = int(self.low), int(self.high)
        if self.log:
            value = math.floor(math.exp(math.log(low) + place * (math.log(high + 1) - math.log(low))))
        else:
            value = low + math.floor(place * (high - low + 1))
        return min(max(value, low), high)

    def __str__(self) -> str:
        kind = "whole numbers" if self.whole else "numbers"
        return f"{kind} from {_text(self.low)} to {_text(self.high)}{', on a logarithmic scale' if self.log else ''}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One setting that varies, or one group of which the option does."""

    key: str
    domain: Choice | Span
    is_group: bool = False
    when: Expression | None = None
    """It is set only in trials for which this holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """All that varies. Groups come first, and what depends on other parameters last."""

    parameters: tuple[Parameter, ...]
    constraints: tuple[Expression, ...] = ()
    base: Base = field(default=lambda choices: {}, repr=False, compare=False)

    @property
    def is_finite(self) -> bool:
        """Whether all trials could be listed."""
        return all(isinstance(parameter.domain, Choice) for parameter in self.parameters)

    def draw(self, pick: Callable[[Parameter], Any]) -> Values | None:
        """The values of one trial, each as `pick` says; None when they break a constraint."""
        values: Values = {}
        for parameter in self.parameters:
            if parameter.when is None or parameter.when.holds(self._lookup(values)):
                values[parameter.key] = pick(parameter)
        return values if self.admits(values) else None

    def grid(self) -> Iterator[Values]:
        """All trials of a finite space, the last parameter changing fastest."""
        yield from (values for values in self._grid({}, 0) if self.admits(values))

    def _grid(self, values: Values, number: int) -> Iterator[Values]:
        if number == len(self.parameters):
            yield dict(values)
            return
        parameter = self.parameters[number]
        if parameter.when is not None and not parameter.when.holds(self._lookup(values)):
            yield from self._grid(values, number + 1)
            return
        for value in parameter.domain.values if isinstance(parameter.domain, Choice) else ():
            yield from self._grid({**values, parameter.key: value}, number + 1)

    def admits(self, values: Values) -> bool:
        """Whether all constraints hold."""
        return all(constraint.holds(self._lookup(values)) for constraint in self.constraints)

    def choices(self, values: Mapping[str, Any]) -> list[str]:
        """The options that values choose for groups, as overrides."""
        groups = {parameter.key for parameter in self.parameters if parameter.is_group}
        return [as_override(key, value) for key, value in values.items() if key in groups]

    def settings(self, values: Mapping[str, Any]) -> list[str]:
        """The other values, as overrides."""
        groups = {parameter.key for parameter in self.parameters if parameter.is_group}
        return [as_override(key, value) for key, value in values.items() if key not in groups]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """All values as overrides."""
        return [*self.choices(values), *self.settings(values)]

    def _lookup(self, values: Values) -> Lookup:
        def look(key: str) -> Any:
            if key in values:
                return values[key]
            node: Any = self.base(self.choices(values))
            for part in key.split("."):
                if not isinstance(node, Mapping) or part not in node:
                    raise KeyError(key)
                node = node[part]
            return node

        return look

    def to_dict(self) -> dict[str, Any]:
        """As plain data: equal spaces are equal in it."""
        return {
            "parameters": [
                {
                    "key": parameter.key,
                    "domain": {name: getattr(parameter.domain, name) for name in parameter.domain.__slots__},
                    "when": parameter.when.text if parameter.when else None,
                }
                for parameter in self.parameters
            ],
            "constraints": [constraint.text for constraint in self.constraints],
        }


def as_override(key: str, value: Any) -> str:
    """An override in Hydra's notation."""
    from hydra.core.override_parser.types import Override

    return f"{key}={Override._get_value_element_as_str(_quoted(value))}"


def _quoted(value: Any) -> Any:
    """Texts that the notation would take for something else, in quotes."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, list | tuple):
        return [_quoted(item) for item in value]
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, str) and not value.replace("_", "").replace("/", "").replace(".", "a").isalnum():
        return QuotedString(value, Quote.single)
    if isinstance(value, str) and _reads_as_another(value):
        return QuotedString(value, Quote.single)
    return value


def _reads_as_another(text: str) -> bool:
    """Whether a text without quotes would be read as a number, a truth value or null."""
    if text.lower() in ("true", "false", "null", "nan", "inf"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
