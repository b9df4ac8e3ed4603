"""The help of every command, pinned. After a wanted change: pytest tests/unit/cli --update-golden, and read the diff."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from orchestrator.cli.main import cli
from tests.golden_files import compare

GOLDEN = Path(__file__).parent / "golden" / "help.txt"
WIDTH = 80


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command below one, and its own."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        # A group whose commands are imported late has no list of them; the others also have hidden ones.
        for name in command.commands or command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*words, name))


def helps() -> str:
    """The help of all commands, one below the other."""
    runner, parts = CliRunner(), []
    for words in commands(cli):
        done = runner.invoke(cli, [*words, "--help"], prog_name="orchestrator", terminal_width=WIDTH)
        assert done.exit_code == 0, words
        parts.append(f"$ {' '.join(('orchestrator', *words, '--help'))}\n{done.output}")
    return "\n".join(parts)


def test_help_is_the_pinned_one(update_golden: bool) -> None:
    compare(GOLDEN, helps(), update=update_golden)
