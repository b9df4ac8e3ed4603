"""Hydra, kept in one place: search path, composition of files and overrides, and Hydra's own views of them.

Composition has two phases so that each error can be put down to one cause: first the files that the chosen options
name, then the overrides of single keys, one by one, on the typed config.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator import paths
from orchestrator.config.explain import diagnose, keys
from orchestrator.config.explain.provenance import ConfigFile, Origins, shown
from orchestrator.config.explain.values import first_line, in_value
from orchestrator.config.schema import JobSpec
from orchestrator.config.spec import on_schema
from orchestrator.errors import ConfigError, did_you_mean

ConfigStore.instance().store(name="schema", node=JobSpec, provider="orchestrator")

CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass(frozen=True)
class Composition:
    """The typed config, with interpolations still in it."""

    config: DictConfig
    origins: Origins
    lines: list[str]
    """The overrides as Hydra takes them."""


def compose(overrides: Sequence[str], config_name: str, config_dir: str | None) -> Composition:
    """Compose files and overrides; call it within `session`."""
    parsed = _parse(overrides)
    loader = ConfigLoaderImpl(_search_path(config_dir))
    # Overrides of Hydra's own keys must be known before the files are read: one of them names search paths.
    own = [override for override in parsed if override.is_hydra_override()]
    repo = _repository(loader, config_name, own)
    choices = [override for override in parsed if override in own or _chooses_option(override, repo)]
    settings = [override for override in parsed if override not in choices]
    _check_choices(choices, repo)
    _check_settings(settings, repo)
    choices = list(_without_needless_plus(choices, loader, config_name))
    config, find_files = _compose_files(loader, repo, config_name, choices)
    _apply(settings, config)
    origins = Origins(find_files=find_files, given=[diagnose.given(override) for override in settings])
    lines = [str(override.input_line) for override in [*choices, *settings]]
    return Composition(config=config, origins=origins, lines=lines)


def overlaid(composition: Composition, overrides: Sequence[str]) -> Composition:
    """Lay settings on a composition, which is changed; call it within `session`."""
    settings = _parse(overrides)
    _apply(settings, composition.config)
    given = [*composition.origins.given, *(diagnose.given(override) for override in settings)]
    origins = Origins(find_files=composition.origins.find_files, given=given)
    lines = [*composition.lines, *(str(override.input_line) for override in settings)]
    return Composition(config=composition.config, origins=origins, lines=lines)


def options_of(group: str, config_name: str, config_dir: str | None) -> list[str] | None:
    """The options of a config group, None when there is no such group; call it within `session`."""
    repo = _repository(ConfigLoaderImpl(_search_path(config_dir)), config_name, [])
    return diagnose.options(repo, group) if repo.group_exists(group) else None


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Hydra's global state as we need it; the config and Hydra of a caller that uses it too are put back."""
    hydra_config, global_hydra = HydraConfig.instance(), GlobalHydra.instance()
    config_before, hydra_before = hydra_config.cfg, global_hydra.hydra
    setup_globals()
    version.setbase("1.3")
    JobRuntime.instance().set("name", "orchestrator")
    global_hydra.clear()
    try:
        yield
    finally:
        hydra_config.cfg, global_hydra.hydra = config_before, hydra_before


# --- overrides -------------------------------------------------------------------------------------------------------


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise diagnose.unreadable_override(error) from error
    for override in parsed:
        if override.is_sweep_override():
            raise diagnose.sweep(override)
        if not override.key_or_group:
            raise ConfigError(f"Override {override.input_line!r} names no setting.", "Write it as key=value.")
    return parsed


def _chooses_option(override: Override, repo: CachingConfigRepository) -> bool:
    is_group: bool = repo.group_exists(override.key_or_group)
    return is_group and not isinstance(override.value(), dict)


def _check_choices(choices: Sequence[Override], repo: CachingConfigRepository) -> None:
    for override in choices:
        value, group = override.value(), override.key_or_group
        if override.is_hydra_override() or override.is_delete():
            continue
        known = diagnose.options(repo, group)
        if override.is_force_add():
            text = str(override.input_line)
            raise ConfigError(f"++ does not go with config groups{diagnose.typed(override)}.", f"Write {text[2:]}.")
        for option in value if isinstance(value, list) else [value]:
            # Hydra itself passes over an unknown option of a group that the defaults list calls optional.
            if not isinstance(option, str) or not (repo.config_exists(f"{group}/{option}") or "${" in option):
                typed = option if isinstance(option, str) else str(override.input_line).partition("=")[2]
                raise diagnose.no_option(group, typed, known, diagnose.typed(override))


def _without_needless_plus(
    choices: Sequence[Override], loader: ConfigLoaderImpl, config_name: str
) -> Sequence[Override]:
    """Write `+experiment=x` as `experiment=x` where the defaults list has the group with no option yet.

    Hydra wants the one or the other, depending on the main config; people should not have to know which.
    """
    added = [override for override in choices if override.is_add() and not override.is_hydra_override()]
    if not added:
        return choices
    others = [str(override.input_line) for override in choices if override not in added]
    with _file_errors(loader.repository):
        try:
            known = loader.compute_defaults_list(config_name, others, RunMode.RUN).overrides.known_choices
        except ConfigCompositionException:
            return choices  # reported by the composition itself
    plain = []
    for override in choices:
        if override in added and known.get(override.get_key_element().removeprefix("+"), "") is None:
            override = OverridesParser.create().parse_override(str(override.input_line).removeprefix("+"))
        plain.append(override)
    return plain


def _check_settings(settings: Sequence[Override], repo: CachingConfigRepository) -> None:
    for override in settings:
        if override.package is not None or not keys.exists(override.key_or_group):
            raise diagnose.not_a_setting(override, repo)


def _apply(settings: Sequence[Override], config: DictConfig) -> None:
    for override in settings:
        try:
            _refuse_part_of_null(override, config)
            ConfigLoaderImpl._apply_overrides_to_config([override], config)
        except OmegaConfBaseException as error:
            raise in_value(error, Origins(given=[diagnose.given(override)])) from error
        except ConfigCompositionException as error:
            raise diagnose.in_override(error, override, present_keys(config)) from error


def _refuse_part_of_null(override: Override, config: DictConfig) -> None:
    parent = override.key_or_group.rpartition(".")[0]
    if parent and OmegaConf.select(config, parent, default="absent", throw_on_missing=False) is None:
        hint = f"Set it as a whole: {parent}=..."
        raise ConfigError(f"{parent} is null, and has no parts to set{diagnose.typed(override)}.", hint)


def present_keys(config: DictConfig) -> list[str]:
    """All dotted keys of a config."""
    return list(_flatten(OmegaConf.to_container(config), ""))


def _flatten(node: object, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{prefix}{key}"
            yield from _flatten(child, f"{prefix}{key}.")


# --- files -----------------------------------------------------------------------------------------------------------


def _search_path(config_dir: str | None) -> ConfigSearchPath:
    """--config-dir, then the project's own conf/, then ours: the first that has a file wins."""
    search_path = create_config_search_path(str(paths.shipped_conf()))
    project = paths.project_conf()
    if project is not None:
        search_path.prepend("project", str(project), anchor="main")
    if config_dir is not None:
        search_path.prepend("command-line", str(_readable(config_dir)), anchor="project" if project else "main")
    return search_path


def _readable(config_dir: str) -> Path:
    folder = Path(config_dir).expanduser().absolute()
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"--config-dir {config_dir} {kind}.", "Give a folder with config groups in it.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"--config-dir {config_dir} cannot be read.", "Check its permissions.")
    return folder


def _repository(loader: ConfigLoaderImpl, config_name: str, own: Sequence[Override]) -> CachingConfigRepository:
    with warnings.catch_warnings(), _file_errors(loader.repository):
        # A search path that is not there is an error to us, just below.
        warnings.simplefilter("ignore", UserWarning)
        lines = [str(override.input_line) for override in own]
        try:
            _, repo = loader._parse_overrides_and_create_caching_repo(config_name, lines)
        except ConfigCompositionException as error:
            raise ConfigError(f"{first_line(error)}.", "Write hydra.searchpath=[folder, ...].") from error
    for source in repo.get_sources():
        if not source.available():
            raise ConfigError(f"hydra.searchpath names {source.path}, which is not there.", "Correct it, or create it.")
    return repo


def _compose_files(
    loader: ConfigLoaderImpl, repo: CachingConfigRepository, config_name: str, choices: Sequence[Override]
) -> tuple[DictConfig, Callable[[], list[ConfigFile]]]:
    lines = [str(override.input_line) for override in choices]
    find_files = partial(_files, loader, repo, config_name, lines)
    try:
        with _file_errors(repo):
            config = loader.load_configuration(config_name, lines, RunMode.RUN)
            HydraConfig.instance().set_config(config)
            return _typed(config), find_files
    except (ConfigCompositionException, OmegaConfBaseException) as error:
        own = [diagnose.given(override) for override in choices if override.is_hydra_override()]
        at = diagnose.Files(repo=repo, overrides=choices, origins=Origins(find_files=find_files, given=own))
        raise diagnose.in_files(error, at) from error


def _typed(config: DictConfig) -> DictConfig:
    """The job's part of the config, on the schema: a project's own config.yaml need not name it."""
    # Merged as plain data: OmegaConf's errors name the key then, which between two configs they do not always do.
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    typed = on_schema(cast(dict[str, Any], plain))
    OmegaConf.set_struct(typed, True)
    return typed


def _files(
    loader: ConfigLoaderImpl, repo: CachingConfigRepository, config_name: str, lines: list[str]
) -> list[ConfigFile]:
    """The files that take part; none when that cannot be told, which is then an error of its own."""
    try:
        defaults = loader.compute_defaults_list(config_name, lines, RunMode.RUN).defaults
    except (ConfigCompositionException, OmegaConfBaseException, ValueError, OSError):
        return []
    names = [(default.config_path, default.package or "") for default in defaults if default.config_path]
    found = [(name, package, repo.load_config(name)) for name, package in names if not name.startswith("hydra/")]
    return [
        ConfigFile(name=name, package=package, path=diagnose.path_of(loaded, name))
        for name, package, loaded in found
        if loaded is not None and loaded.path.startswith("file://")
    ]


@contextlib.contextmanager
def _file_errors(repo: IConfigRepository) -> Iterator[None]:
    """Errors of reading files that are the same wherever they are read."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        raise diagnose.bad_yaml(error) from error
    except PermissionError as error:
        raise ConfigError(f"{shown(Path(str(error.filename)))} cannot be read.", "Check its permissions.") from error
    except (MissingConfigException, OmegaConfBaseException):
        raise  # an OSError and sometimes a ValueError too, but they have more to say
    except (OSError, ValueError) as error:
        raise diagnose.bad_file(error, repo) from error


# --- Hydra's own views -----------------------------------------------------------------------------------------------


def show(
    overrides: Sequence[str],
    *,
    cfg: str | None = None,
    resolve: bool = False,
    info: str | None = None,
    package: str | None = None,
    config_name: str = "config",
    config_dir: str | None = None,
) -> str:
    """The text of Hydra's `--cfg` (with `--resolve` and `--package`) or `--info`."""
    if cfg is not None and cfg not in CFG:
        raise ConfigError(f"--cfg {cfg} is not there to be shown.", did_you_mean(cfg, list(CFG)))
    if info is not None and info not in INFO:
        raise ConfigError(f"--info {info} is not there to be shown.", did_you_mean(info, list(INFO)))
    with session():
        # Ours first, for its error messages; and, as with Hydra, a config need not be complete to be shown.
        composition = compose(overrides, config_name, config_dir)
        _check_package(package, composition.config)
        if resolve:
            _check_resolves(package, composition)
        hydra = Hydra.create_main_hydra2("orchestrator", _search_path(config_dir))
        with _captured() as text:
            try:
                if info is not None:
                    hydra.show_info(info, config_name, composition.lines)
                else:
                    hydra.show_cfg(config_name, composition.lines, cfg or "job", package, resolve)
            except OmegaConfBaseException as error:
                raise in_value(error, composition.origins) from error
            except ConfigCompositionException as error:
                # A project's config.yaml without `schema` in its defaults list, which load() adds and Hydra does not.
                hint = "Put schema first in the defaults list of the main config."
                raise ConfigError(f"Hydra cannot show this config: {first_line(error)}.", hint) from error
            except SystemExit as error:
                raise ConfigError(f"--package {package} is not in the config that --cfg {cfg} shows.") from error
        return text.getvalue()


def _check_package(package: str | None, config: DictConfig) -> None:
    if package in (None, "_global_") or str(package).partition(".")[0] == "hydra":
        return
    try:
        found = OmegaConf.select(config, str(package), throw_on_missing=False) is not None
    except OmegaConfBaseException:
        found = False
    if not found:
        hint = keys.suggest(str(package), present_keys(config))
        raise ConfigError(f"--package {package} is not in the config.", hint)


def _check_resolves(package: str | None, composition: Composition) -> None:
    """Hydra resolves in place, and its errors do not name the key."""
    config = composition.config
    try:
        shown_part = OmegaConf.select(config, package) if package and package != "_global_" else config
        if OmegaConf.is_config(shown_part):
            OmegaConf.to_container(shown_part, resolve=True)
    except OmegaConfBaseException as error:
        raise in_value(error, composition.origins) from error


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What Hydra prints and logs; it sets up the root logger, which is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
            yield text
    finally:
        root.handlers, root.level = handlers, level
