"""What settings there are, as dotted keys, read off the schema: for checks and for "did you mean"."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any

from omegaconf._utils import split_key

from orchestrator.config.schema import JobSpec


@cache
def schema_keys() -> dict[str, Any]:
    """Every dotted key of the schema with its annotation, groups of settings included."""
    return dict(_walk(JobSpec, ""))


def _walk(schema: type, prefix: str) -> Iterable[tuple[str, Any]]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        annotation = hints[field.name]
        yield prefix + field.name, annotation
        if dataclasses.is_dataclass(annotation):
            yield from _walk(typing.cast(type, annotation), f"{prefix}{field.name}.")


def normal(key: str) -> str:
    """`optimizer.betas[0]` and `model[width]` written with dots."""
    return ".".join(part for part in split_key(key) if part)


def is_open(annotation: Any) -> bool:
    """Whether keys of the person's own choosing may stand below a node of this type."""
    return any(typing.get_origin(option) in (dict, list) for option in _options(annotation))


def exists(key: str) -> bool:
    """Whether the schema has this key, or has it below a node that is open."""
    known, key = schema_keys(), normal(key)
    if key in known:
        return True
    parents = _parents(key)
    return any(is_open(known[parent]) for parent in parents if parent in known)


def is_group(key: str) -> bool:
    """Whether the key names a group of settings rather than one setting."""
    return dataclasses.is_dataclass(schema_keys().get(normal(key)))


def describe(key: str) -> str:
    """What a value of this key must be, as it reads after "is not"; empty when anything goes."""
    known = schema_keys()
    key = normal(key)
    if key in known:
        return _name(known[key])
    parent, _, _ = key.rpartition(".")
    for option in _options(known.get(parent, Any)):
        if typing.get_origin(option) in (dict, list):
            return _name(typing.get_args(option)[-1])
    return ""


def suggest(key: str, present: Iterable[str] = ()) -> str:
    """A hint that names the keys most like `key`, of the schema and of `present` ones; empty when none is."""
    found = near(key, present)
    if not found:
        return ""
    return f"Did you mean {found[0]!r}?" if len(found) == 1 else "Nearest: " + ", ".join(found) + "."


def near(key: str, present: Iterable[str] = (), count: int = 3) -> list[str]:
    """The keys most like `key`, best first: the same last name elsewhere, then siblings, then alike ones."""
    known = list(dict.fromkeys([*schema_keys(), *present]))
    parent, _, last = key.rpartition(".")
    same_name = [other for other in known if other.rpartition(".")[2] == last and other != key]
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    alike = [siblings[name] for name in get_close_matches(last, list(siblings), n=count, cutoff=0.6)]
    if same_name or alike:
        return [*alike, *(other for other in same_name if other not in alike)][:count]
    whole = get_close_matches(key, known, n=count, cutoff=0.7)
    if whole:
        return whole
    by_last: dict[str, str] = {}
    for other in known:
        by_last.setdefault(other.rpartition(".")[2], other)
    elsewhere = [by_last[name] for name in get_close_matches(last, list(by_last), n=count, cutoff=0.7)]
    return elsewhere or (sorted(siblings.values()) if len(siblings) <= 12 and parent else [])


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def _name(annotation: Any) -> str:
    options = [option for option in _options(annotation) if option is not type(None)]
    if len(options) != 1 or options[0] is Any:
        return ""
    option = options[0]
    if typing.get_origin(option) is list:
        element = _name(typing.get_args(option)[0])
        return f"a list ({element.removeprefix('a ')} each)" if element else "a list"
    if typing.get_origin(option) is dict:
        return "a mapping (key: value)"
    if dataclasses.is_dataclass(option):
        return "a group of settings (key: value)"
    if isinstance(option, type) and issubclass(option, Enum):
        return "one of " + ", ".join(member.name for member in option)
    return _NAMES.get(option, "")
