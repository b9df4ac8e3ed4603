"""The parameters of a run: its resolved config as flat dotted names, as MLflow and `runs compare` show them."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_VALUE = 6000
"""MLflow's limit for one value."""
MAX_NAME = 250


def flatten(spec: Mapping[str, Any]) -> dict[str, str]:
    """{"job": {"seed": 1}} -> {"job.seed": "1"}. Lists stay one value, as JSON; an empty mapping is left out."""
    return dict(_pairs(spec, ""))


def _pairs(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{name}.")
        else:
            yield name, text(value)


def text(value: Any) -> str:
    """A value as people write it in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return json.dumps(value)
    return str(value)


def for_mlflow(spec: Mapping[str, Any]) -> dict[str, str]:
    """The same within MLflow's limits: names it accepts, values it does not refuse."""
    return {name_for_mlflow(name): value[:MAX_VALUE] for name, value in flatten(spec).items()}


def name_for_mlflow(name: str) -> str:
    """A name of the characters MLflow allows: letters, digits and _-. :/"""
    allowed = re.sub(r"[^\w.\- :/]", "_", name)
    return posixpath.normpath(allowed.strip("/"))[:MAX_NAME]
