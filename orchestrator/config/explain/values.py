"""Turns what OmegaConf raises about one key or its value into one ConfigError."""

from __future__ import annotations

import re

from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
    ValidationError,
)

from orchestrator.config.explain import keys
from orchestrator.config.explain.provenance import Origins
from orchestrator.errors import ConfigError, did_you_mean


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a closing full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".:")


def in_value(error: OmegaConfBaseException, origins: Origins, fallback: str = "") -> ConfigError:
    """What is wrong with one key or its value."""
    key = keys.normal(str(error.full_key)) if error.full_key else ""
    key = key or _not_a_group(origins)
    if key and not error.full_key:
        return ConfigError(f"{key}={origins.value(key)} is not {keys.describe(key)}{origins.where(key)}.")
    if not key:
        return ConfigError(f"{fallback or 'The config'}: {first_line(error)}{origins.where(fallback)}.")
    where = origins.where(key)
    if isinstance(error, InterpolationKeyError):
        wanted = re.search(r"'(.+?)'", str(error))
        name = wanted[1] if wanted else "?"
        return ConfigError(f"{key} refers to {name}, which is not there{where}.", keys.suggest(name))
    if isinstance(error, InterpolationToMissingValueError):
        return ConfigError(f"{key} refers to a value that is not set{where}.", "Set the value that it refers to.")
    if isinstance(error, InterpolationResolutionError | UnsupportedInterpolationType):
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", first_line(error)).strip("\"'")
        return ConfigError(f"{key} cannot be worked out: {reason}{where}.")
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return ConfigError(f"{key} is not a setting{where}.", keys.suggest(key))
    if isinstance(error, ValidationError):
        return _wrong_type(error, key, origins)
    return ConfigError(f"{key}: {first_line(error)}{where}.")


def _not_a_group(origins: Origins) -> str:
    """The group of settings that a file sets to a single value: OmegaConf does not say which."""
    found = (key for key, place in origins.places.items() if place.value not in (None, "null", "~", ""))
    return next((key for key in found if keys.is_group(key)), "")


def _wrong_type(error: ValidationError, key: str, origins: Origins) -> ConfigError:
    value = origins.value(key)
    if value is None:
        named = re.search(r"[Vv]alue '(.*?)'", str(error))
        value = named[1] if named else None
    wanted = keys.describe(key)
    subject = key if value is None else f"{key}={value}"
    if not wanted:
        return ConfigError(f"{subject}: {first_line(error)}{origins.where(key)}.")
    choices = wanted.removeprefix("one of ").split(", ") if wanted.startswith("one of ") else []
    hint = did_you_mean(value, choices) if choices and value else ""
    return ConfigError(f"{subject} is not {wanted}{origins.where(key)}.", "" if len(choices) <= 3 else hint)


def with_origin(error: ConfigError, origins: Origins) -> ConfigError:
    """The same error, with where the key that it begins with was set."""
    key = re.match(r"([a-z_]\w*(?:\.\w+)*)=", error.message)
    where = origins.where(key[1]) if key else ""
    return type(error)(error.message.rstrip(".") + where + ".", error.hint) if where else error
