"""A person's own DeepSpeed settings, merged on top of the planned ones.

What a config group owns cannot be changed here, because the plan would then say one thing and DeepSpeed do another: an
equal value or 'auto' is dropped, another one is an error that names the override to use. All else is the person's, and
the plan notes it.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import PlanError, did_you_mean
from orchestrator.plans.deepspeed import known_keys as keys

AUTO = "auto"
Pairs = list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """DeepSpeed settings from one place."""

    source: str
    """Where they are from, as it is named in errors."""
    values: dict[str, Any]


def read_file(path: Path, shown: str) -> Settings:
    """Read a DeepSpeed JSON file; `shown` is how the person wrote its path."""
    source = f"strategy.deepspeed_file {shown}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PlanError(
            f"{source} cannot be read: {reason} ({path}).",
            "The path is relative to the folder you start the command in.",
        ) from error
    try:
        values = json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(pairs, source))
    except json.JSONDecodeError as error:
        raise PlanError(
            f"{source}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}.",
            "Correct the file; JSON has no comments, and no comma before a closing bracket.",
        ) from error
    if not isinstance(values, dict):
        raise PlanError(f"{source} holds a {type(values).__name__}, not an object.", "It must begin with '{'.")
    return Settings(source, values)


def _without_duplicates(pairs: Pairs, source: str) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"{source} sets {twice[0]} twice.", "Delete one of the two.")
    return dict(pairs)


def merge(planned: dict[str, Any], settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """The planned config with the settings on top, and a note for each thing they change."""
    values = _with_documented_names(settings)
    _refuse_unknown(values, settings.source)
    values = _without_owned(values, planned, settings.source)
    merged = copy.deepcopy(planned)
    notes: list[str] = []
    _merge_into(merged, values, "", settings.source, notes)
    return merged, notes


def _with_documented_names(settings: Settings) -> dict[str, Any]:
    values = copy.deepcopy(settings.values)
    zero = values.get("zero_optimization")
    if not isinstance(zero, dict):
        return values
    for short, name in keys.ZERO_ALIASES.items():
        if short in zero and name in zero:
            raise PlanError(
                f"{settings.source} sets both zero_optimization.{short} and zero_optimization.{name}, "
                "two names of the same setting.",
                "Delete one of the two.",
            )
        if short in zero:
            zero[name] = zero.pop(short)
    return values


def _refuse_unknown(values: dict[str, Any], source: str) -> None:
    for section, known in (("", keys.TOP_LEVEL), ("zero_optimization", keys.ZERO)):
        there = values.get(section, {}) if section else values
        if not isinstance(there, dict):
            raise PlanError(f"{source} sets {section}={there}, which is not an object.", 'Write {"stage": ...}.')
        for key in there:
            if key not in known:
                path = f"{section}.{key}" if section else key
                hint = did_you_mean(key, list(known)) or "Delete it: DeepSpeed 0.19 has no such key, or no longer."
                raise PlanError(f"{source} sets {path}, which DeepSpeed does not know.", hint)


def _without_owned(values: dict[str, Any], planned: dict[str, Any], source: str) -> dict[str, Any]:
    """The settings less those that a config group owns; an owned one that differs from the plan is an error."""
    left = copy.deepcopy(values)
    for path, owned in keys.OWNED.items():
        there, asked = _lookup(left, path)
        if not there:
            continue
        found, value = _lookup(planned, path)
        value = value if found else owned.absent
        if asked != AUTO and not keys.same(asked, value):
            _refuse_owned(path, owned, asked, value, source)
        _delete(left, path)
    return left


def _refuse_owned(path: str, owned: keys.Owned, asked: Any, planned: Any, source: str) -> None:
    message = f"{source} sets {path}={_show(asked)}, but the plan has {_show(planned)}."
    raise PlanError(message, owned.advice or f"Set {owned.override(asked)} or delete the key.")


def _show(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _lookup(values: dict[str, Any], path: str) -> tuple[bool, Any]:
    here: Any = values
    for part in path.split("."):
        if not isinstance(here, dict) or part not in here:
            return False, None
        here = here[part]
    return True, here


def _delete(values: dict[str, Any], path: str) -> None:
    *folders, name = path.split(".")
    here = values
    for part in folders:
        here = here[part]
    del here[name]


def _merge_into(target: dict[str, Any], values: dict[str, Any], prefix: str, source: str, notes: list[str]) -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(target.get(key, {}), dict):
            if value:
                _merge_into(target.setdefault(key, {}), value, f"{path}.", source, notes)
            continue
        if value == AUTO:
            _refuse_auto(path, target.get(key), source)
        if isinstance(target.get(key), dict):
            raise PlanError(f"{source} sets {path}={_show(value)}, but it is an object.", "Set the keys inside it.")
        if key not in target:
            notes.append(f"{source} adds {path}={_show(value)}")
        elif not keys.same(target[key], value):
            notes.append(f"{source} changes {path} from {_show(target[key])} to {_show(value)}")
        target[key] = value


def _refuse_auto(path: str, planned: Any, source: str) -> None:
    instead = f" (the plan has {_show(planned)})" if planned is not None else ""
    raise PlanError(
        f'{source} sets {path}="auto", and nothing here fills it in.', f"Give a value or delete the key{instead}."
    )
