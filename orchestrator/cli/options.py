"""What all verbs that take a config have in common: overrides, the flags that show the config, --json, --verbose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from orchestrator.config.load import Loaded

CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigArgs:
    """The part of a command line that says what config is meant."""

    overrides: tuple[str, ...] = ()
    config_name: str = "config"
    config_dir: str | None = None
    cfg: str | None = None
    resolve: bool = False
    package: str | None = None
    info: str | None = None
    json: bool = False
    verbose: bool = False

    def handled_show(self) -> bool:
        """Print the config instead of running, when --cfg or --info asks for it; say whether that was so."""
        if not (self.cfg or self.info):
            if self.resolve or self.package:
                flag = "--resolve" if self.resolve else "--package"
                raise click.UsageError(f"{flag} changes what --cfg prints, and there is no --cfg.")
            return False
        from orchestrator.config import load

        text = load.show(
            list(self.overrides),
            cfg=self.cfg,
            resolve=self.resolve,
            info=self.info,
            package=self.package,
            config_name=self.config_name,
            config_dir=self.config_dir,
        )
        click.echo(text.rstrip("\n"))
        return True

    def load(self) -> Loaded:
        """Compose and validate the config."""
        from orchestrator.config import load

        return load.load(list(self.overrides), config_name=self.config_name, config_dir=self.config_dir)


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from orchestrator.cli.candidates import complete

    return list(complete(incomplete))


def _complete_config_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from orchestrator.cli.candidates import options

    return [name for name in options("") if name.startswith(incomplete)]


def complete_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Ids of the runs in a storage folder, or of those here and the jobs submitted here; a URL is not asked, since that
    takes seconds.
    """
    from orchestrator import paths
    from orchestrator.records import finder
    from orchestrator.records.runs import LAST

    parent = context.parent.params.get("storage") if context.parent else None
    storage = context.params.get("storage") or parent
    known = [] if storage and paths.is_url(storage) else sorted(finder.roots(storage))
    return [name for name in (LAST, *known) if known and name.startswith(incomplete)]


verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Show tracebacks, and what workers, Ray and DeepSpeed print."
)
traceback_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks and debug messages."
)
"""The same for commands that start no workers; `main` reads it from the command line."""
json_option = click.option("--json", is_flag=True, help="Print JSON, errors included.")

_OPTIONS = (
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=_complete),
    click.option("--cfg", "-c", type=click.Choice(CFG), help="Print the composed config and stop."),
    click.option("--resolve", is_flag=True, help="With --cfg: fill in interpolations."),
    click.option("--package", "-p", metavar="KEY", help="With --cfg: print only this part of it."),
    click.option(
        "--info",
        "-i",
        type=click.Choice(INFO),
        is_flag=False,
        flag_value="all",
        help="Print where the config comes from, and stop.",
    ),
    click.option(
        "--config-dir", "-cd", metavar="DIR", type=click.Path(file_okay=False), help="A config folder to search first."
    ),
    click.option(
        "--config-name",
        "-cn",
        metavar="NAME",
        default="config",
        help="The config file to start from.  [default: config]",
        shell_complete=_complete_config_names,
    ),
    json_option,
    verbose_option,
)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the config's arguments and flags; it receives them as one ConfigArgs, its first parameter."""

    @functools.wraps(command)
    def with_config(**values: Any) -> Any:
        config = ConfigArgs(**{name: values.pop(name) for name in ConfigArgs.__dataclass_fields__})
        return command(config, **values)

    for option in reversed(_OPTIONS):
        with_config = option(with_config)
    return with_config
