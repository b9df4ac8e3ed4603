"""Checks a target's arguments against its signature and annotations: they are the schema of `model` and `data`."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from orchestrator.errors import TargetError, did_you_mean

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping)
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


@dataclass(frozen=True, slots=True)
class At:
    """Which call of the config is being checked."""

    key: str
    """`model`, or `model.head` for a node in its arguments."""
    target: str
    where: Callable[[str], str]


class _Mismatch(Exception):
    """A value that its annotation does not allow."""


def check(
    call: Callable[..., Any], values: Mapping[str, Any], at: At, supplied: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments as the callable wants them; `supplied` ones come from us and may not be in the config."""
    try:
        parameters = inspect.signature(call).parameters
    except (ValueError, TypeError):
        # Some callables written in C have no signature: they check their arguments themselves.
        return dict(values)
    _check_supplied(parameters, values, at, supplied)
    _refuse_unknown(parameters, values, at, supplied)
    _refuse_missing(parameters, values, at, supplied)
    hints = _annotations(call)
    return {name: _checked(name, value, hints.get(name, Any), at) for name, value in values.items()}


def _by_name(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in parameters.items() if parameter.kind in kinds]


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _check_supplied(
    parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any], at: At, supplied: Collection[str]
) -> None:
    for name in supplied:
        if name in values:
            key = f"{at.key}.{name}"
            raise TargetError(f"{key} is set by the run itself{at.where(key)}.", "Leave it out.")
        if name not in _by_name(parameters) and not _takes_any(parameters):
            hint = f"Give it one: def {at.target.rpartition(':')[2]}({name}: str, ...)."
            raise TargetError(f"{at.key}._target_={at.target} has no parameter {name!r}{at.where(at.key)}.", hint)


def _refuse_unknown(
    parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any], at: At, supplied: Collection[str]
) -> None:
    known = [name for name in _by_name(parameters) if name not in supplied]
    for name in values:
        if name not in known and not _takes_any(parameters):
            key = f"{at.key}.{name}"
            hint = did_you_mean(name, known) or ("" if known else "It takes no arguments.")
            raise TargetError(f"{key} is not an argument of {at.target}{at.where(key)}.", hint)


def _refuse_missing(
    parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any], at: At, supplied: Collection[str]
) -> None:
    for name, parameter in parameters.items():
        variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if variadic or parameter.default is not inspect.Parameter.empty or name in values or name in supplied:
            continue
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TargetError(f"{at.target} has the positional-only parameter {name!r}.", "Make it one with a name.")
        where = at.where(f"{at.key}._target_")
        raise TargetError(
            f"{at.key}.{name} is not set, and {at.target} needs it{where}.", f"Set it: +{at.key}.{name}=..."
        )


def _annotations(call: Callable[..., Any]) -> dict[str, Any]:
    function = call.__init__ if isinstance(call, type) else call  # type: ignore[misc]
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError, SyntaxError):
        # One name that only type checkers import must not cost us the other annotations.
        return _one_by_one(function)


def _one_by_one(function: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        stand_in = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found.update(typing.get_type_hints(stand_in, globalns=getattr(function, "__globals__", {})))
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return found


def _checked(name: str, value: Any, annotation: Any, at: At) -> Any:
    try:
        return _coerced(value, annotation)
    except _Mismatch:
        key = f"{at.key}.{name}"
        hint = f"Set it: {key}=..." if value is None else ""
        raise TargetError(f"{key}={_text(value)} is not {describe(annotation)}{at.where(key)}.", hint) from None


def _text(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if _plain(value) else str(value)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _coerced(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it; what is not understood passes."""
    if not (value is None or isinstance(value, bool | int | float | str | list | tuple | dict)):
        return value  # a node, whose result is for its own callable to answer for
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return _one_of(value, inner)
    if origin is typing.Annotated:
        return _coerced(value, inner[0])
    if origin is Literal:
        return _require(value, any(value == allowed and type(value) is type(allowed) for allowed in inner))
    if annotation is None or annotation is type(None):
        return _require(value, value is None)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _member(value, annotation)
    if annotation in (bool, int, str, float):
        return _scalar(value, annotation)
    return _container(value, origin or annotation, inner)


def _one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    # The exact type first, so that 1 stays a whole number for `float | int`.
    for choice in sorted(choices, key=lambda choice: choice is not type(value)):
        try:
            return _coerced(value, choice)
        except _Mismatch:
            continue
    raise _Mismatch


def _scalar(value: Any, wanted: type) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _require(value, type(value) is wanted)


def _member(value: Any, enum: type[Enum]) -> Any:
    for member in enum:
        if value == member.name or value == member.value:
            return member
    raise _Mismatch


def _container(value: Any, kind: Any, inner: tuple[Any, ...]) -> Any:
    if kind is tuple:
        return _tuple(_require(value, isinstance(value, list | tuple)), inner)
    if kind in _LISTS:
        _require(value, isinstance(value, list | tuple))
        return [_coerced(item, inner[0]) for item in value] if inner else value
    if kind in _DICTS:
        _require(value, isinstance(value, dict))
        return {name: _coerced(item, inner[1]) for name, item in value.items()} if len(inner) == 2 else value
    return value


def _tuple(value: Any, inner: tuple[Any, ...]) -> Any:
    if not inner:
        return tuple(value)
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_coerced(item, inner[0]) for item in value)
    _require(value, len(value) == len(inner))
    return tuple(_coerced(item, wanted) for item, wanted in zip(value, inner, strict=True))


def _require(value: Any, right: bool) -> Any:
    if not right:
        raise _Mismatch
    return value


def describe(annotation: Any) -> str:
    """What a value must be, as it reads after "is not"."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(choice) for choice in inner)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in inner)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(member.name for member in annotation)
    kind = origin or annotation
    if kind is tuple or kind in _LISTS:
        element = describe(inner[0]).removeprefix("a ") if inner else ""
        return f"a list ({element} each)" if element else "a list"
    if kind in _DICTS:
        return "a mapping (key: value)"
    return _WORDS.get(annotation, str(annotation))
