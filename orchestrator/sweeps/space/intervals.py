"""Intervals of numbers, as Hydra's grammar writes them: `interval(0,1)`, `tag(log,int(interval(8,512)))`."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override

from orchestrator.errors import ConfigError
from orchestrator.sweeps.space.space import Span


def span(override: Override, where: str, present: Any, kind: str) -> Span:
    """The numbers of an interval; whole ones where the setting is one.

    `present`: its value in the config; `kind`: which values it takes, in words, as far as the config says.
    """
    key, sweep = override.key_or_group, override._value
    if not isinstance(sweep, IntervalSweep) or sweep.start is None or sweep.end is None:
        raise ConfigError(f"{override.input_line} has no two ends{where}.", "Write interval(low,high).")
    if not _takes_numbers(kind, present):
        shown = f"it is {kind}" if kind else f"its value is {present!r}"
        raise ConfigError(
            f"{key} is not a number, so that an interval makes no sense{where}: {shown}.",
            f"Name its values: {key}=choice(...).",
        )
    unknown = sorted(sweep.tags - {"log", "int"})
    if unknown:
        raise ConfigError(f"{key}: an interval has no tag {unknown[0]!r}{where}.", "There are log and int.")
    whole = kind == "a whole number" or (not kind and isinstance(present, int)) or _both_int(sweep, "int" in sweep.tags)
    low, high = float(sweep.start), float(sweep.end)
    if low >= high:
        raise ConfigError(f"{key}: the interval from {low:g} to {high:g} is empty{where}.", "Write interval(low,high).")
    if "log" in sweep.tags and low <= 0:
        raise ConfigError(f"{key}: on a logarithmic scale an interval begins above 0, not at {low:g}{where}.")
    if whole and (low != int(low) or high != int(high)):
        raise ConfigError(f"{key} is a whole number, and the interval ends at {low:g} and {high:g}{where}.")
    return Span(low=low, high=high, log="log" in sweep.tags, whole=whole)


def _both_int(sweep: IntervalSweep, tagged: bool) -> bool:
    """`int(interval(1,9))` leaves whole ends; a plain interval of whole ends is one of floats, as in Hydra."""
    return tagged or (type(sweep.start) is int and type(sweep.end) is int)


def _takes_numbers(kind: str, present: Any) -> bool:
    if kind:
        return kind in ("a number", "a whole number")
    return (isinstance(present, int | float) and not isinstance(present, bool)) or present is None
