"""`orchestrator cluster`: a cluster of several machines, from a cluster.yaml."""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS = {
    "up": ("orchestrator.cli.verbs.cluster_up:up", "Start it: Ray on all machines, MLflow's server on the head."),
    "down": ("orchestrator.cli.verbs.cluster_up:down", "End it, and leave nothing behind but MLflow's records."),
    "status": ("orchestrator.cli.verbs.cluster_up:status", "Say whether it is up, and what is missing."),
    "nodes": ("orchestrator.cli.verbs.cluster_up:nodes", "List the machines and what they have."),
    "check": (
        "orchestrator.cli.verbs.cluster_check:check",
        "Check versions, clocks, disks and every pair's connection.",
    ),
    "exec": ("orchestrator.cli.verbs.cluster_up:execute", "Run a command on the head, as part of the cluster."),
    "validate": ("orchestrator.cli.verbs.cluster_up:validate", "Check a cluster.yaml and its machines; start nothing."),
}
"""Where each command lives, and its line in the help."""


class Commands(click.Group):
    """A group whose commands are imported only when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short_help) for name, (_, short_help) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete commands without importing them."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]


@click.group(cls=Commands)
def cluster() -> None:
    """Start, look at and end a cluster of machines that are reached over SSH.

    FILE is in the format of Ray's cluster launcher, with provider local; without it, cluster.yaml in this folder.
    """
