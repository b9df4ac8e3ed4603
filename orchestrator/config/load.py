"""From overrides to a validated JobSpec. Every wrong input ends as one ConfigError; nothing of the job is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config import compose
from orchestrator.config.compose import show as show
from orchestrator.config.explain import keys
from orchestrator.config.explain.provenance import Origins
from orchestrator.config.explain.values import in_value
from orchestrator.config.schema import JobSpec
from orchestrator.config.spec import spec_from_dict as spec_from_dict
from orchestrator.config.targets import exports, targets
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
        resolved = resolve(composition.config, composition.origins)
    return checked(resolved, composition.origins)


def checked(resolved: dict[str, Any], origins: Origins) -> Loaded:
    """What a resolved config says, or what is wrong with it. The search of a sweep is no part of a training."""
    spec = spec_from_dict(resolved, origins)
    resolved.pop("sweep", None)
    if spec.script is None:
        targets.check(resolved, exports.allowed(), origins.where)
    return Loaded(spec=spec, resolved=resolved, origins=origins)


def resolve(config: DictConfig, origins: Origins) -> dict[str, Any]:
    """A typed config as plain data, interpolations filled in."""
    try:
        _refuse_missing(config, origins)
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, enum_to_str=True))
    except OmegaConfBaseException as error:
        raise in_value(error, origins) from error


def _refuse_missing(config: DictConfig, origins: Origins) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        key = keys.normal(missing[0])
        wanted = keys.describe(key)
        hint = f"Set it: {key}=... ({wanted})." if wanted else f"Set it: {key}=..."
        raise ConfigError(f"{key} has no value{origins.where(key)}.", hint)
