"""Words that complete an override: config groups, their options, the keys of the schema. Reads names only, no Hydra."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from orchestrator import paths


def complete(incomplete: str) -> list[str]:
    """What may stand where `incomplete` is: `opt` -> `optimizer=` and `optimizer.`, `optimizer=` -> its options."""
    bare = incomplete.lstrip("+~")
    prefix = incomplete[: len(incomplete) - len(bare)]
    if "=" in bare:
        key, _, value = bare.partition("=")
        words = [f"{key}={choice}" for choice in _values(key) if choice.startswith(value)]
    else:
        words = [word for word in _left_sides(bare) if word.startswith(bare)]
    if prefix.startswith("~"):
        words = [word.rstrip("=") for word in words]
    return [prefix + word for word in words]


def groups() -> list[str]:
    """Names of all config groups, the project's and ours."""
    found: set[str] = set()
    for folder in _folders():
        found.update(entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if _is_group(entry))
    return sorted(found)


def options(group: str) -> list[str]:
    """Names one can choose from in a group; in the group '' those are the config files at the top."""
    found = {path.stem for folder in _folders() for path in (folder / group).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def keys() -> dict[str, object]:
    """Every dotted key of the schema with its type."""
    from orchestrator.config.schema import JobSpec

    return dict(_keys(JobSpec, ""))


def _folders() -> list[Path]:
    return [folder for folder in (paths.project_conf(), paths.shipped_conf()) if folder is not None and folder.is_dir()]


def _is_group(entry: Path) -> bool:
    return entry.is_dir() and any(entry.glob("*.yaml")) and not entry.name.startswith((".", "_"))


def _values(key: str) -> list[str]:
    if key in groups():
        return options(key)
    hint = keys().get(key)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [str(member.value) for member in hint]
    return ["true", "false"] if hint is bool else []


def _left_sides(bare: str) -> Iterator[str]:
    """Groups, sections with a dot, and the keys one level below what is already written."""
    depth = bare.count(".")
    yield from (f"{group}=" for group in groups())
    sections: list[str] = []
    for key in keys():
        parts = key.split(".")
        if len(parts) == depth + 1:
            yield f"{key}="
        elif len(parts) > depth + 1:
            section = ".".join(parts[: depth + 1]) + "."
            if section not in sections:
                sections.append(section)
    yield from sections


def _keys(schema: type, prefix: str) -> Iterator[tuple[str, object]]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{field.name}.")
        elif typing.get_origin(hint) is not dict:
            yield f"{prefix}{field.name}", hint
