"""`orchestrator preprocess`."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import click

from orchestrator import paths
from orchestrator.cli.options import config_options, handled_show
from orchestrator.config.request import ConfigArgs

if TYPE_CHECKING:
    from orchestrator.runtime.driver.preparing import Prepared

SHOWN = 20
"""So many unusable items are named."""


@click.command()
@config_options
def preprocess(config: ConfigArgs) -> None:
    """Prepare a job's data, as its first stage does: read it, clean it, keep it where training reads it quickly.

    \b
    orchestrator preprocess job=photos data.path=photos

    Prepared data is found again by the data, the code and the parameters that it depends on, so a second time is quick.
    """
    if handled_show(config):
        return
    from orchestrator.runtime.driver import preparing

    loaded = config.load()
    request = preparing.request_for(loaded.resolved, loaded.spec, str(paths.project_dir()))
    if request is None:
        click.echo(f"job={loaded.spec.job.name} reads its data as it is: there is nothing to prepare.")
        return
    try:
        found = preparing.run(request, lambda text: click.echo(text, err=True))
    except preparing.TooManyUnreadable as error:
        for prepared in error.found:
            _name_unusable(prepared)
        raise error.cause from None
    if config.json:
        click.echo(json.dumps([dataclasses.asdict(prepared) for prepared in found], indent=2))
        return
    for prepared in found:
        _show(prepared)
        _name_unusable(prepared)


def _show(prepared: Prepared) -> None:
    for split, count in prepared.counts.items():
        click.echo(f"{split:<10}  {count:>9,} items")
    if prepared.classes:
        named = ", ".join(prepared.classes[:SHOWN]) + (", ..." if len(prepared.classes) > SHOWN else "")
        click.echo(f"{'classes':<10}  {len(prepared.classes):>9,}  {named}")
    if prepared.problems:
        click.echo(f"{'unusable':<10}  {len(prepared.problems):>9,} items")
    made = "made in" if prepared.built else "there already; it was made in"
    click.echo(f"{prepared.bytes / 1e6:.1f} MB in {prepared.folder}, {made} {prepared.seconds:.1f} s")


def _name_unusable(prepared: Prepared) -> None:
    for problem in prepared.problems[:SHOWN]:
        click.echo(f"unusable: {problem['split']}: {problem['name']}: {problem['reason']}", err=True)
    if len(prepared.problems) > SHOWN:
        click.echo(f"unusable: and {len(prepared.problems) - SHOWN} more", err=True)
    sys.stderr.flush()
