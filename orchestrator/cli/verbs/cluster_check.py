"""`orchestrator cluster check`: whether the nodes of a cluster can train together."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import json_option, traceback_option
from orchestrator.cli.verbs.cluster_up import DEFAULT_FILE

if TYPE_CHECKING:
    from orchestrator.cluster.check.check import Measured
    from orchestrator.cluster.doctor.doctor import Finding

EXIT_CODE = 1
MANY = 15
"""Of more pairs than this only the slowest are listed."""


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--address", metavar="HOST:PORT", help="The cluster's address in Ray, when this machine is part of it.")
@click.option("--data", metavar="PATH", help="Look whether every node can read this.")
@click.option("--storage", metavar="PATH", help="Look whether every node can write this, and it is the same for all.")
@json_option
@traceback_option
def check(file: str | None, address: str | None, data: str | None, storage: str | None, json: bool) -> int:
    """Check a running cluster: each node's versions, clock and disk; each pair's connection; a sum over all nodes.

    On a machine of a cluster that `cluster up` started, it checks that one; where Ray was started by hand, say
    --address auto. Elsewhere it is run on the head of the cluster in FILE, or else in cluster.yaml in this folder.
    Exit code 1: something is wrong.
    """
    from orchestrator.cluster.check.check import examine, measure
    from orchestrator.cluster.doctor.doctor import Level

    if file and address:
        raise click.UsageError(f"Give FILE ({file}) or --address ({address}), not both.")
    address = address or os.environ.get("RAY_ADDRESS")
    if file or (not address and Path(DEFAULT_FILE).is_file()):
        return _on_head(file or DEFAULT_FILE, {"--data": data, "--storage": storage}, json)
    if sys.stderr.isatty():
        click.echo("Asking all nodes; this takes about half a minute ...", err=True)
    measured = measure(address or "auto", data=data, storage=storage)
    findings = examine(measured)
    if json:
        _print_json(measured, findings)
    else:
        _print(measured, findings)
    return EXIT_CODE if any(finding.level is Level.problem for finding in findings) else 0


def _on_head(file: str, options: dict[str, str | None], json: bool) -> int:
    """Have the head check its cluster; what it prints is printed here."""
    from orchestrator.cluster.launch.connected import connected

    given = [word for name, value in options.items() if value for word in (name, value)]
    with connected(file) as cluster:
        return cluster.execute(["orchestrator", "cluster", "check", *given, *(["--json"] if json else [])])


def _print_json(measured: Measured, findings: list[Finding]) -> None:
    levels = {finding.level.value for finding in findings}
    verdict = next((level for level in ("problem", "warning") if level in levels), "ok")
    told = {"verdict": verdict, "findings": [finding.to_dict() for finding in findings], **asdict(measured)}
    click.echo(json.dumps(told, indent=2))


def _print(measured: Measured, findings: list[Finding]) -> None:
    _print_table(
        ["node", "address", "interface", "clock", "disk free", "Python", "torch", "Ray", "our code"], _nodes(measured)
    )
    if measured.pairs:
        click.echo()
        _print_table(["pair", "there and back", "bandwidth"], _pairs(measured))
    click.echo(f"\n{_summed(measured)}")
    if findings:
        click.echo()
    for finding in findings:
        word, color = ("PROBLEM", "red") if finding.level.value == "problem" else ("warning", "yellow")
        click.echo(f"{click.style(word, fg=color)}  {finding.found}. -> {finding.mend}")
    click.echo(_verdict(findings))


def _nodes(measured: Measured) -> list[list[str]]:
    from orchestrator.cluster.check.check import gib

    rows = []
    for node in measured.nodes:
        if node["silent"]:
            rows.append([node["name"], node["address"], f"({node['silent']})"])
            continue
        versions = node["versions"]
        clock = "here" if node["name"] == measured.here else f"{round(node['clock'] * 1e3):+d} ms"
        free = min((disk["free"] for disk in node["disks"]), default=0)
        known = [versions.get(name, "missing") for name in ("Python", "torch", "ray", "our code")]
        rows.append([node["name"], node["address"], node["interface"] or "?", clock, gib(free), *known])
    return rows


def _pairs(measured: Measured) -> list[list[str]]:
    from orchestrator.cluster.check.check import bandwidth, latency, rate, reached

    broken = [pair for pair in measured.pairs if not reached(pair)]
    working = sorted((pair for pair in measured.pairs if reached(pair)), key=bandwidth)
    shown = working if len(measured.pairs) <= MANY else working[:MANY]
    rows = [[_name(pair), "-", "-"] for pair in broken]
    rows += [[_name(pair), f"{latency(pair) * 1e3:.2f} ms", rate(bandwidth(pair))] for pair in shown]
    if len(shown) < len(working):
        rows.append([f"{len(working) - len(shown)} faster pairs", "", ""])
    return rows


def _name(pair: dict[str, Any]) -> str:
    return " - ".join(pair["nodes"])


def _summed(measured: Measured) -> str:
    told = measured.all_reduce
    if told is None:
        few = len([node for node in measured.nodes if not node["silent"]]) < 2
        return (
            "One node: nothing to measure between nodes." if few else "No sum over all nodes: some do not reach others."
        )
    if told["failed"]:
        return "The sum over all nodes failed."
    return f"Sum of {told['bytes'] / 2**20:.0f} MiB over {told['nodes']} nodes (gloo): {told['seconds'] * 1e3:.0f} ms."


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    complete = [row for row in rows if len(row) == len(head)]
    widths = [max(map(len, column)) for column in zip(head, *complete, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)).rstrip())


def _verdict(findings: list[Finding]) -> str:
    problems = sum(finding.level.value == "problem" for finding in findings)
    if problems:
        return f"{problems} to mend before training on this cluster."
    return "Ready to train." if not findings else "Ready to train; see the warnings."
