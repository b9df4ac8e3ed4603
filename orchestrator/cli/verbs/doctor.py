"""`orchestrator doctor`: what this machine has and lacks for training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import json_option, verbose_option

if TYPE_CHECKING:
    from orchestrator.cluster.doctor.doctor import Finding

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "red")}
EXIT_CODE = 3


@click.command()
@click.option("--storage", metavar="PATH", default="runs", help="Run storage to look at.  [default: runs]")
@json_option
@verbose_option
def doctor(storage: str, json: bool, verbose: bool) -> int:
    """Check this machine: packages, GPUs, disk, memory, ports. Exit code 3: something keeps it from training."""
    from orchestrator.cluster.doctor.doctor import Level, examine, machine

    if not json:
        click.echo(machine())
    findings = examine(storage)
    if json:
        _print_json(findings)
    else:
        _print(findings)
    return EXIT_CODE if any(finding.level is Level.problem for finding in findings) else 0


def _print_json(findings: list[Finding]) -> None:
    levels = {finding.level.value for finding in findings}
    verdict = next((level for level in ("problem", "warning") if level in levels), "ok")
    click.echo(json.dumps({"verdict": verdict, "findings": [finding.to_dict() for finding in findings]}, indent=2))


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        word, color = MARKS[finding.level.value]
        click.echo(f"{click.style(f'{word:<7}', fg=color)}  {finding.name:<{width}}  {finding.found}")
        if finding.mend:
            click.echo(f"{'':<{width + 11}}-> {finding.mend}")
    click.echo(_verdict(findings))


def _verdict(findings: list[Finding]) -> str:
    counts = {level: sum(finding.level.value == level for finding in findings) for level in ("problem", "warning")}
    if counts["problem"]:
        return f"{counts['problem']} to mend before training, {counts['warning']} to know about."
    if counts["warning"]:
        return f"Ready to train; {counts['warning']} to know about."
    return "Ready to train."
