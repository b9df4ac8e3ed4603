"""From overrides to a validated JobSpec. Every wrong input ends as one ConfigError; nothing of the job is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config import compose, diagnose, exports, keys, targets
from orchestrator.config.compose import show as show
from orchestrator.config.provenance import Origins
from orchestrator.config.schema import JobSpec
from orchestrator.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What was asked for, as objects and as plain data."""

    spec: JobSpec
    resolved: dict[str, Any]
    """Every setting, interpolations resolved, enums by name: what a Plan keeps, and JSON."""
    origins: Origins = field(repr=False, compare=False)
    """Where each setting was set, for error messages."""


def load(overrides: Sequence[str] = (), config_name: str = "config", config_dir: str | None = None) -> Loaded:
    """Compose, validate, and check that all targets are allowed."""
    with compose.session():
        composition = compose.compose(overrides, config_name, config_dir)
        resolved = _resolve(composition.config, composition.origins)
    spec = spec_from_dict(resolved, composition.origins)
    targets.check(resolved, exports.allowed(), composition.origins.where)
    return Loaded(spec=spec, resolved=resolved, origins=composition.origins)


def spec_from_dict(data: Mapping[str, Any], origins: Origins | None = None) -> JobSpec:
    """The JobSpec of a resolved config, as a Plan keeps it; without Hydra."""
    origins = origins or Origins()
    try:
        config = OmegaConf.merge(OmegaConf.structured(JobSpec), _escaped(dict(data)))
        return cast(JobSpec, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise diagnose.in_value(error, origins) from error
    except ConfigError as error:
        raise diagnose.with_origin(error, origins) from error


def _resolve(config: DictConfig, origins: Origins) -> dict[str, Any]:
    try:
        _refuse_missing(config, origins)
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, enum_to_str=True))
    except OmegaConfBaseException as error:
        raise diagnose.in_value(error, origins) from error


def _refuse_missing(config: DictConfig, origins: Origins) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        key = keys.normal(missing[0])
        wanted = keys.describe(key)
        hint = f"Set it: {key}=... ({wanted})." if wanted else f"Set it: {key}=..."
        raise ConfigError(f"{key} has no value{origins.where(key)}.", hint)


def _escaped(node: Any) -> Any:
    """Text with `${` in it has been resolved already, and must not be once more."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escaped(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", node)
    return node
