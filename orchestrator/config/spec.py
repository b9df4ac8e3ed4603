"""The JobSpec of plain data: what worker processes need, without Hydra."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.explain.provenance import Origins
from orchestrator.config.explain.values import in_value, with_origin
from orchestrator.config.schema import JobSpec
from orchestrator.errors import ConfigError


def spec_from_dict(data: Mapping[str, Any], origins: Origins | None = None) -> JobSpec:
    """The JobSpec of a resolved config, as a Plan keeps it."""
    origins = origins or Origins()
    try:
        return cast(JobSpec, OmegaConf.to_object(on_schema(_escaped(dict(data)))))
    except OmegaConfBaseException as error:
        raise in_value(error, origins) from error
    except ConfigError as error:
        raise with_origin(error, origins) from error


def on_schema(config: DictConfig | dict[str, Any]) -> DictConfig:
    """A typed copy of a config: every setting is there, and none other."""
    return cast(DictConfig, OmegaConf.merge(_schema(), config))


@cache
def _schema() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(JobSpec))


def _escaped(node: Any) -> Any:
    """Text with `${` in it has been resolved already, and must not be once more."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escaped(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", node)
    return node
