"""`orchestrator completion`: the script a shell loads to complete verbs, options and overrides."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

PROGRAMS = ("orchestrator", "orch")

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line kind value
    COMPREPLY=()
    for line in $(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r kind value <<< "$line"
        if [[ $kind == dir ]]; then
            compopt -o dirnames
        elif [[ $kind == file ]]; then
            compopt -o default
        else
            COMPREPLY+=("$value")
            [[ $value == *[=.] ]] && compopt -o nospace
        fi
    done
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class OverrideBash(BashComplete):
    """Bash takes `key=value` for three words; click's own script loses the key then. This one reads the line itself."""

    name = "bash"
    source_template = _BASH

    def source(self) -> str:
        """The script; the check of bash's version that click makes would start a bash, whose answer nobody needs."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one at it."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])

    def complete(self) -> str:
        """Bash replaces only what follows the last `=`, so only that is sent."""
        args, incomplete = self.get_completion_args()
        done = incomplete.rfind("=") + 1
        items: list[CompletionItem[Any]] = self.get_completions(args, incomplete)
        for item in items:
            if done and item.value.startswith(incomplete[:done]):
                item.value = item.value[done:]
        return "\n".join(self.format_completion(item) for item in items)


SHELLS: dict[str, type[ShellComplete]] = {"bash": OverrideBash, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and overrides.

    \b
    bash, in ~/.bashrc:                     eval "$(orchestrator completion bash)"
    zsh, in ~/.zshrc:                       eval "$(orchestrator completion zsh)"
    fish, in ~/.config/fish/config.fish:    orchestrator completion fish | source
    """
    cli = context.find_root().command
    for program in PROGRAMS:
        click.echo(SHELLS[shell](cli, {}, program, f"_{program}_COMPLETE".upper()).source())
