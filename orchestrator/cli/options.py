"""What all verbs that take a config have in common: overrides, the flags that show the config, --json, --verbose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from orchestrator.config.request import ConfigArgs
from orchestrator.submission.limits import UPLOAD_LIMIT

CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def handled_show(config: ConfigArgs) -> bool:
    """Print the config instead of running, when --cfg or --info asks for it; say whether that was so."""
    if not (config.cfg or config.info):
        if config.resolve or config.package:
            flag = "--resolve" if config.resolve else "--package"
            raise click.UsageError(f"{flag} changes what --cfg prints, and there is no --cfg.")
        return False
    from orchestrator.config import load

    text = load.show(
        list(config.overrides),
        cfg=config.cfg,
        resolve=config.resolve,
        info=config.info,
        package=config.package,
        config_name=config.config_name,
        config_dir=config.config_dir,
    )
    click.echo(text.rstrip("\n"))
    return True


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
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included.")
"""The same for commands that use the module of this name."""

id_option = click.option("--id", "run_id", metavar="ID", help="The run's id; with it, this may be repeated safely.")
wait_option = click.option("--wait", is_flag=True, help="Follow it, and end with its exit code. Ctrl-C detaches.")
limit_option = click.option(
    "--upload-limit", metavar="SIZE", default=UPLOAD_LIMIT, show_default=True, help="Send no larger project."
)
cluster_option = click.option(
    "--cluster",
    "cluster_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Do it on the head of the cluster in this cluster.yaml, over SSH.",
)
storage_option = click.option(
    "--storage",
    metavar="PATH",
    default=None,
    help="Folder or URL the run lies in.  [default: runs, and wherever jobs were submitted to from here]",
)
run_argument = click.argument("run", shell_complete=complete_runs)

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
