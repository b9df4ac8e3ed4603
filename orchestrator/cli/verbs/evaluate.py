"""`orchestrator evaluate`: a run's model judged anew, from any checkpoint, on any split or on other data."""

from __future__ import annotations

import dataclasses
import json

import click

from orchestrator import paths
from orchestrator.cli.options import complete_runs, traceback_option


@click.command(short_help="Judge a run's model anew: any checkpoint, split or data.")
@click.argument("run", shell_complete=complete_runs)
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option(
    "--checkpoint",
    metavar="WHICH",
    default="best",
    show_default=True,
    help="best, last, a step, or a checkpoint's name.",
)
@click.option("--split", type=click.Choice(("train", "val", "test")), default="test", show_default=True)
@click.option("--name", metavar="NAME", default="", help="Of the results in the run.  [default: the split]")
@click.option("--storage", metavar="PATH", help="Folder or URL the runs lie in.  [default: runs]", default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included.")
@traceback_option
def evaluate(
    run: str, overrides: tuple[str, ...], checkpoint: str, split: str, name: str, storage: str, as_json: bool
) -> None:
    """Compute metrics of a checkpoint's model, and keep them in the run, with plots and single answers.

    \b
    orchestrator evaluate last
    orchestrator evaluate RUN --checkpoint 1200 --split val
    orchestrator evaluate RUN data.path=newer.csv --name newer

    It takes place in this process, on its GPU if there is one, whatever number of workers trained the model.
    """
    from orchestrator.models.evaluate import evaluate as judge
    from orchestrator.records import runs
    from orchestrator.tracking.evaluations import record_in_mlflow

    record = runs.load(storage, run)
    done = judge(record, checkpoint=checkpoint, split=split, overrides=overrides, name=name)
    note = record_in_mlflow(record, done.name, done.step, done.metrics)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done) | {"note": note}, indent=2))
        return
    other = "".join(f", data.{key}={value}" for key, value in done.data.items())
    click.echo(f"{done.items:,} items of {done.split}{other}, {done.checkpoint}, {done.seconds:g} s")
    for metric, value in done.metrics.items():
        click.echo(f"  {metric:<20} {value:.6g}")
    click.echo(f"  {record.root}/{paths.EVALUATIONS}/{done.name}: {', '.join(done.files)}")
    if note:
        click.echo(f"note: {note}", err=True)
