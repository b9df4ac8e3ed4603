"""Settings of a plan's config changed after the fact: `data.path=other.csv` for an evaluation on other data."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import ConfigError, did_you_mean


def changed(tree: Mapping[str, Any], overrides: Sequence[str], group: str) -> dict[str, Any]:
    """A copy of a config with values of one group replaced; `group.key=value`, in Hydra's notation of values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    from orchestrator.config.explain import diagnose

    edited = copy.deepcopy(dict(tree))
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise diagnose.unreadable_override(error) from error
    for override in parsed:
        line, key = str(override.input_line), override.key_or_group
        if not key.startswith(f"{group}.") or override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{line!r} cannot be changed here.", f"Settings of the data can: {group}.KEY=VALUE.")
        _set(edited, key, override.value(), line)
    return edited


def _set(tree: dict[str, Any], key: str, value: Any, line: str) -> None:
    *path, last = key.split(".")
    node: Any = tree
    for number, part in enumerate(path):
        node = node.get(part)
        if not isinstance(node, dict):
            raise ConfigError(f"There is no {'.'.join(path[: number + 1])} in the run's config ({line}).")
    if last not in node:
        known = [name for name in node if not name.startswith("_")]
        raise ConfigError(f"The run's config has no {key} ({line}).", did_you_mean(last, known))
    node[last] = value
