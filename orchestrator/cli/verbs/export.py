"""`orchestrator export`: a run's model as one file, from any of its checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from orchestrator.cli.options import complete_runs, traceback_option

FORMATS = ("safetensors",)
DTYPES = ("fp32", "bf16", "fp16", "as-saved")


@click.command(short_help="Write a run's model as one file, from any checkpoint.")
@click.argument("run", shell_complete=complete_runs)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="Of the file."
)
@click.option(
    "--checkpoint",
    metavar="WHICH",
    default="best",
    show_default=True,
    help="best, last, a step, or a checkpoint's name.",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="fp32", show_default=True, help="Number format of weights.")
@click.option("--out", metavar="FOLDER", help="Where to write it.  [default: RUN-stepN in this folder]")
@click.option("--storage", metavar="PATH", help="Folder or URL the runs lie in.  [default: runs]", default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included.")
@traceback_option
def export(run: str, form: str, checkpoint: str, dtype: str, out: str | None, storage: str, as_json: bool) -> None:
    """Write a run's model as one file, whatever strategy and number of workers saved the checkpoint.

    \b
    orchestrator export last
    orchestrator export RUN --checkpoint 1200 --dtype bf16 --out my-model

    The folder gets model.safetensors, with the names of the model's state dict, and model.json, which says how to
    build it. The run may still be training.
    """
    from orchestrator.models.export import export as write
    from orchestrator.models.export import find
    from orchestrator.records.runs import load

    record = load(storage, run)
    name = find(record, checkpoint)
    folder = Path(out) if out else Path(f"{record.id}-{name.rsplit('-', 1)[0]}")
    done = write(record, folder, checkpoint=name, dtype=dtype)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done), indent=2))
        return
    click.echo(f"{done.file}  ({done.parameters:,} parameters, {dtype}, {done.bytes / 1e6:,.1f} MB, step {done.step})")
