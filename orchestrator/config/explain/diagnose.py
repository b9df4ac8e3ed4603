"""Turns what Hydra and PyYAML raise into one ConfigError: what, what else there is, and where it was set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra._internal.config_repository import IConfigRepository
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, GrammarParseError, OmegaConfBaseException

from orchestrator.config.explain import keys
from orchestrator.config.explain.provenance import ConfigFile, Given, Origins, command_line, default_line, shown
from orchestrator.config.explain.values import first_line, in_value
from orchestrator.errors import ConfigError, did_you_mean, nearest

HIDDEN_CONFIGS = ("schema", "_dummy_empty_config_")
"""Configs that exist for Hydra's sake and are no options."""


# --- overrides by themselves -----------------------------------------------------------------------------------------


def unreadable_override(error: OverrideParseException) -> ConfigError:
    """An override that is not in Hydra's grammar."""
    text = error.override
    if "=" not in text and not text.startswith("~"):
        known = keys.exists(text.lstrip("+"))
        hint = f"Write {text}=value." if known else f"Write it as key=value. {keys.suggest(text.lstrip('+'))}".strip()
        return ConfigError(f"Override {text!r} has no value.", hint)
    for left, right in ("[]", "{}", "()"):
        if text.count(left) != text.count(right):
            missing = right if text.count(left) > text.count(right) else left
            return ConfigError(f"Override {text!r} cannot be read: a {missing!r} is missing.", "Check its brackets.")
    reason = first_line(error).removeprefix("LexerNoViableAltException: ")
    because = "" if reason == text else f": {reason}"
    return ConfigError(
        f"Override {text!r} cannot be read{because}.",
        "Quote values with spaces or special characters: 'key=\"some, text\"'.",
    )


def sweep(override: Override) -> ConfigError:
    """A sweep where one value is needed."""
    _, _, value = str(override.input_line).partition("=")
    key = override.key_or_group
    takes_list = "(" not in value and keys.describe(key).startswith("a list")
    hint = f"Write a list as {key}=[{value}]." if takes_list else "Give one value; to try several: orchestrator sweep."
    return ConfigError(f"{key} has several values where one is needed{typed(override)}.", hint)


def typed(override: Override) -> str:
    """Where an override was set."""
    return command_line(str(override.input_line))


def not_a_setting(override: Override, repo: IConfigRepository) -> ConfigError:
    """An override of a key that the schema does not have."""
    key, line = override.key_or_group, str(override.input_line)
    if override.package is not None or "/" in key or _looks_like_group(override, repo):
        return ConfigError(f"There is no config group {key!r}{typed(override)}.", did_you_mean(key, groups(repo)))
    kind = "is not there to be removed" if line.startswith("~") else "is not a setting"
    near_keys = keys.near(key, groups(repo)) if "." not in key else keys.near(key)
    hint = did_you_mean(key, near_keys) if len(near_keys) == 1 else _nearest_hint(near_keys)
    return ConfigError(f"{key} {kind}{typed(override)}.", hint)


def _nearest_hint(found: Sequence[str]) -> str:
    if found:
        return "Nearest: " + ", ".join(found) + "."
    return "Settings begin with: " + ", ".join(sorted(key for key in keys.schema_keys() if "." not in key)) + "."


def _looks_like_group(override: Override, repo: IConfigRepository) -> bool:
    value = override.value() if not override.is_delete() else None
    close = nearest(override.key_or_group, groups(repo), count=1)
    return bool(isinstance(value, str) and close and repo.group_exists(close[0]) and value in options(repo, close[0]))


# --- groups and files ------------------------------------------------------------------------------------------------


def groups(repo: IConfigRepository) -> list[str]:
    """The config groups there are."""
    return [name for name in repo.get_group_options("", ObjectType.GROUP) if name != "hydra"]


def options(repo: IConfigRepository, group: str) -> list[str]:
    """The options of a group; of the root, the main configs."""
    names = repo.get_group_options(group, ObjectType.CONFIG) if repo.group_exists(group) or not group else []
    return [name for name in names if name not in HIDDEN_CONFIGS]


@dataclass(frozen=True)
class Files:
    """What is known while files are being composed."""

    repo: IConfigRepository
    overrides: Sequence[Override]
    """Those that choose options of groups."""
    origins: Origins


def in_files(error: Exception, at: Files) -> ConfigError:
    """What went wrong while the files were composed."""
    if isinstance(error, yaml.MarkedYAMLError):
        return bad_yaml(error)
    if isinstance(error, MissingConfigException):
        return _missing_config(error, at)
    inner = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    parent = re.match(r"In '(.+?)'", str(error))
    if isinstance(inner, GrammarParseError):
        return bad_file(inner, at.repo)
    if isinstance(inner, OmegaConfBaseException):
        origins = at.origins.only(parent[1]) if parent else at.origins
        if parent and str(inner.full_key) == parent[1].rpartition("/")[0]:
            # The content of an experiment, say, belongs to the root and not to a node `experiment`.
            message = f"{inner.full_key} is not a setting{origins.where(str(inner.full_key))}."
            return ConfigError(message, "Begin the file with the line: # @package _global_")
        return in_value(inner, origins, fallback=f"{parent[1]}.yaml" if parent else "")
    for override in at.overrides:
        group = override.key_or_group
        named = (
            f"'{override.get_key_element().lstrip('~+')}'",
            f"'{group}=",
            f"values for {group}.",
            f"{group} appears",
        )
        if any(name in str(error) for name in named):
            return _group_override(error, override, at.repo)
    return _bad_defaults(error, at, parent[1] if parent else "")


def _bad_defaults(error: Exception, at: Files, parent: str) -> ConfigError:
    """Something wrong with the defaults list of a file."""
    unused = re.search(r"Could not override '(.+?)'", str(error))
    if unused:
        hint = did_you_mean(unused[1], [name for name in groups(at.repo) if name != unused[1]])
        where = _where_is(_file_of(at.repo, parent))
        return ConfigError(f"{unused[1]} is not in the defaults list, to be overridden{where}.", hint)
    twice = re.search(r"Multiple values for (.+?)\. .*: (.+?)'", str(error))
    if twice:
        where = _naming(at, twice[1], twice[2])
        return ConfigError(f"{twice[1]} is chosen more than once{where}.", f"Write override /{twice[1]}: {twice[2]}.")
    what, _, hint = re.sub(r"^In '.+?': ", "", first_line(error)).partition(". ")
    return ConfigError(f"The config cannot be composed{_where_is(_file_of(at.repo, parent))}: {what}.", hint)


def _where_is(file: Path | None) -> str:
    return f" (in {shown(file)})" if file else ""


def _group_override(error: Exception, override: Override, repo: IConfigRepository) -> ConfigError:
    group, value = override.key_or_group, override.value()
    if override.is_delete():
        chosen = f"{group} is not set to {value}" if value else f"{group} is not there to be removed"
        return ConfigError(f"{chosen}{typed(override)}.", "Leave the override out.")
    if override.is_add():
        return ConfigError(f"{group} is already there{typed(override)}.", f"Write {group}={value}.")
    if override.package is not None:
        return ConfigError(
            f"Nothing in the defaults list is {override.get_key_element()!r}{typed(override)}.",
            f"Write {group}={value}.",
        )
    return ConfigError(f"{group} is not in the defaults list{typed(override)}.", f"Add it with +{group}={value}.")


def _missing_config(error: MissingConfigException, at: Files) -> ConfigError:
    wanted = str(error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, option = wanted.rpartition("/")
    known = options(at.repo, group)
    where = _who_wants(error, wanted, at)
    if not group:
        return ConfigError(f"There is no config {wanted!r} on the search path{where}.", did_you_mean(wanted, known))
    if not at.repo.group_exists(group):
        return ConfigError(f"There is no config group {group!r}{where}.", did_you_mean(group, groups(at.repo)))
    return no_option(group, option, known, where)


def no_option(group: str, option: str, known: list[str], where: str) -> ConfigError:
    """A group that exists, and an option of it that does not."""
    close = nearest(option, known)
    hint = f"Did you mean {group}={close[0]}?" if len(close) == 1 else f"Options: {', '.join(close or known)}."
    return ConfigError(f"{group} has no option {option!r}{where}.", hint)


def _who_wants(error: MissingConfigException, wanted: str, at: Files) -> str:
    group, _, option = wanted.rpartition("/")
    for override in at.overrides:
        value = override.value()
        if override.key_or_group == group and option in (value if isinstance(value, list) else [value]):
            return typed(override)
    parent = re.match(r"In '(.+?)'", str(error))
    return _naming(at, group, option) or _where_is(_file_of(at.repo, parent[1]) if parent else None)


def _naming(at: Files, group: str, option: str) -> str:
    """The file that names an option in its defaults list; those that were asked for come first."""
    asked = [f"{override.key_or_group}/{override.value()}" for override in at.overrides]
    files = [file for name in asked if (file := _file_of(at.repo, name))]
    for file in [*files, *_all_files(at.repo)]:
        line = default_line(file, group, option)
        if line:
            return f" (in {shown(file)}:{line})"
    return ""


def _file_of(repo: IConfigRepository, name: str) -> Path | None:
    for folder in _folders(repo):
        file = folder / f"{name}.yaml"
        if file.is_file():
            return file
    return None


def _folders(repo: IConfigRepository) -> list[Path]:
    return [Path(source.path) for source in repo.get_sources() if source.scheme() == "file"]


def _all_files(repo: IConfigRepository) -> list[Path]:
    return [file for folder in _folders(repo) for file in sorted(folder.rglob("*.yaml"))]


def path_of(loaded: ConfigResult, name: str) -> Path:
    """The file that a config was loaded from."""
    return Path(loaded.path.removeprefix("file://")) / f"{name.removesuffix('.yaml')}.yaml"


def bad_yaml(error: yaml.MarkedYAMLError) -> ConfigError:
    """A file that is not YAML."""
    mark = error.problem_mark or error.context_mark
    place = f"{shown(Path(str(mark.name)))}:{mark.line + 1}" if mark else "A config file"
    problem = " ".join(str(error.problem or error.context or "it cannot be parsed").split())
    return ConfigError(f"{place} is not valid YAML: {problem}.", "Mind indentation, and the space after each colon.")


def bad_file(error: Exception, repo: IConfigRepository) -> ConfigError:
    """A file that Hydra cannot take; which one, its error does not say."""
    for file in _all_files(repo):
        try:
            OmegaConf.load(file)
        except (OSError, ValueError, OmegaConfBaseException) as found:
            if type(found) is type(error):
                return ConfigError(f"{_line_in(file, found)} cannot be used: {first_line(found)}.", "Correct the file.")
    name = re.search(r"'(.+?)'", str(error))
    file_named = _file_of(repo, name[1]) if name else None
    what = shown(file_named) if file_named else "A config file"
    return ConfigError(f"{what} cannot be used: {first_line(error)}.", "Correct the file.")


def _line_in(file: Path, error: Exception) -> str:
    key = str(getattr(error, "full_key", None) or "")
    place = Origins(find_files=lambda: [ConfigFile(name="", package="", path=file)]).place(key) if key else None
    return str(place) if place else shown(file)


# --- single values ---------------------------------------------------------------------------------------------------


def in_override(error: ConfigCompositionException, override: Override, present: Sequence[str]) -> ConfigError:
    """What went wrong while an override of a key was applied."""
    key, line = override.key_or_group, str(override.input_line)
    inner = error.__cause__
    if override.is_delete():
        if isinstance(inner, OmegaConfBaseException):
            hint = f"Write {key}=null to unset it, if it may be null."
            return ConfigError(f"{key} is a fixed setting and cannot be removed{typed(override)}.", hint)
        if "does not exist" in str(error):
            return ConfigError(f"{key} is not there to be removed{typed(override)}.", keys.suggest(key, present))
        found = re.search(r" is (.*) and not", str(error))
        return ConfigError(f"{key} is {found[1] if found else 'another value'}{typed(override)}.", f"Write ~{key}.")
    if isinstance(override.value(), dict) and isinstance(inner, OmegaConfBaseException):
        return in_value(inner, Origins(given=[given(override)]), fallback=key)
    if isinstance(inner, ConfigKeyError | ConfigAttributeError) and not override.is_add():
        hint = f"{_siblings_hint(key, present)} To add it, write +{line}.".strip()
        return ConfigError(f"{key} is not in the config{typed(override)}.", hint)
    if isinstance(inner, OmegaConfBaseException):
        return in_value(inner, Origins(given=[given(override)]), fallback=key)
    if override.is_add():
        return ConfigError(f"{key} is already there{typed(override)}.", f"Write {line[1:]}.")
    return ConfigError(f"{first_line(error)}{typed(override)}.")


def _siblings_hint(key: str, present: Sequence[str]) -> str:
    parent, _, last = key.rpartition(".")
    names = [other.rpartition(".")[2] for other in present if other.rpartition(".")[0] == parent]
    close = nearest(last, [name for name in names if not name.startswith("_")], count=1)
    return f"Did you mean {parent}.{close[0]}?" if len(close) == 1 else ""


def given(override: Override) -> Given:
    """An override as provenance knows it."""
    return Given(key=keys.normal(override.key_or_group), text=str(override.input_line))
