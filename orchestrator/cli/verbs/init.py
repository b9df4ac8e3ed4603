"""`orchestrator init`: start a project of one's own."""

from __future__ import annotations

import json as json_module
import shlex
from pathlib import Path

import click

from orchestrator.cli.options import json_option, verbose_option


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Name of the package and the job.  [default: made from DIR's name]")
@json_option
@verbose_option
def init(folder: Path, name: str | None, json: bool, verbose: bool) -> None:
    """Start a project in DIR: a Task that trains in seconds, its config, and a test. Then change it into yours."""
    from orchestrator.project.scaffold.build import create, package_name

    target = folder.expanduser().resolve()
    package = package_name(name or target.name)
    files = create(target, package)
    commands = [f"orchestrator train job={package}", "python -m pytest"]
    if target != Path.cwd():
        commands.insert(0, f"cd {shlex.quote(str(folder))}")
    if json:
        answer = {"project": str(target), "package": package, "files": files, "next": commands}
        click.echo(json_module.dumps(answer, indent=2))
        return
    click.echo(f"{folder}/")
    for line in tree(files):
        click.echo(line)
    click.echo("\nNext:")
    for command in commands:
        click.echo(f"  {command}")


def tree(files: list[str], indent: str = "  ") -> list[str]:
    """Paths as an indented tree, folders first."""
    folders = sorted({path.split("/")[0] for path in files if "/" in path})
    lines = []
    for folder in folders:
        below = [path.split("/", 1)[1] for path in files if path.startswith(f"{folder}/")]
        lines += [f"{indent}{folder}/", *tree(below, f"{indent}  ")]
    return lines + [f"{indent}{path}" for path in sorted(files) if "/" not in path]
