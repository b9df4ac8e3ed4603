"""Entry point of `orchestrator` and `orch`: finds the verb, turns whatever goes wrong into one line and an exit code.

Verbs are imported when they are called, so that help, completion and mistakes in the command line cost no imports.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.errors import OrchestratorError, did_you_mean
from orchestrator.foundation.version import __version__

VERBS = {
    "plan": ("orchestrator.cli.verbs.plan:plan", "Show exactly what would run, without running it."),
    "preprocess": ("orchestrator.cli.verbs.preprocess:preprocess", "Prepare a job's data, for all runs to come."),
    "train": ("orchestrator.cli.verbs.train:train", "Plan a job and run it here."),
    "submit": ("orchestrator.cli.verbs.submit:submit", "Hand a job to the cluster, to run while nobody waits."),
    "stop": ("orchestrator.cli.verbs.stop:stop", "Have a run save a checkpoint and end."),
    "rerun": ("orchestrator.cli.verbs.rerun:rerun", "Submit once more what a run was."),
    "sweep": ("orchestrator.cli.verbs.sweep:sweep", "Search over settings: many trials, on workers that stay warm."),
    "resume": ("orchestrator.cli.verbs.train:resume", "Go on with a run from its newest checkpoint."),
    "runs": ("orchestrator.cli.verbs.runs:runs", "List runs; look into one of them."),
    "jobs": ("orchestrator.cli.verbs.jobs:jobs", "List jobs that were submitted; look into one of them."),
    "logs": ("orchestrator.cli.verbs.logs:logs", "Show, or follow, what a run's workers print."),
    "attach": ("orchestrator.cli.verbs.attach:attach", "Watch a run until it is over."),
    "why": ("orchestrator.cli.verbs.why:why", "Tell what a job waits for, and what would start it."),
    "evaluate": (
        "orchestrator.cli.verbs.evaluate:evaluate",
        "Judge a run's model anew: any checkpoint, split or data.",
    ),
    "export": ("orchestrator.cli.verbs.export:export", "Write a run's model as one file, from any checkpoint."),
    "ui": ("orchestrator.cli.verbs.ui:ui", "Open MLflow's page on the recorded runs."),
    "up": ("orchestrator.cli.verbs.up:up", "Start Ray and an MLflow server on this machine, to stay."),
    "down": ("orchestrator.cli.verbs.up:down", "End what `up` started."),
    "status": ("orchestrator.cli.verbs.up:status", "Show what `up` started."),
    "cluster": ("orchestrator.cli.verbs.cluster:cluster", "Start, look at and end a cluster of several machines."),
    "init": ("orchestrator.cli.verbs.init:init", "Start a project of your own: a Task, its config and a test."),
    "doctor": ("orchestrator.cli.verbs.doctor:doctor", "Check what this machine has and lacks for training."),
    "completion": (
        "orchestrator.cli.verbs.completion:completion",
        "Print the script that completes commands in your shell.",
    ),
}
"""Where each verb lives, and its line in the help."""

USE_CLUSTER = frozenset(
    [
        *("plan", "preprocess", "train", "sweep", "submit", "rerun", "resume", "runs", "evaluate", "ui", "doctor"),
        "cluster check",
    ]
)
"""Commands that find the cluster which was started on this machine."""

BUG = 4
STOPPED = 130

EPILOG = """\b
Exit codes:
    0  done
    1  the run started, and failed
    2  something you wrote is wrong: a key, a value, a command
    3  this machine or cluster lacks something
    4  a bug in orchestrator
  130  stopped by you
"""


class Verbs(click.Group):
    """A group whose commands are imported only when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order people meet them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or name the nearest there is."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            raise click.UsageError(f"There is no command {name!r}. {did_you_mean(name, list(VERBS))}".strip(), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short_help) for name, (_, short_help) in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete verbs without importing them; options as click does."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=text) for name, (_, text) in VERBS.items() if name.startswith(incomplete)]


@click.group(
    cls=Verbs, epilog=EPILOG, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="orchestrator %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def cli(context: click.Context, verbose: bool) -> None:
    """Plan, schedule and run distributed training.

    \b
    orchestrator plan job=digits              what would run
    orchestrator train job=digits             run it
    orchestrator runs                         what ran
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but the code comes out of here."""
    from orchestrator.foundation.environment import quiet_telemetry

    quiet_telemetry(os.environ)
    args = list(sys.argv[1:] if argv is None else argv)
    if _verbose(args):
        _log_everything()
    if f"_{_program()}_COMPLETE".upper() in os.environ:
        importlib.import_module("orchestrator.cli.verbs.completion")  # registers our bash completion with click
    try:
        _find_cluster(args)
        code = cli.main(args, prog_name=_program(), standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return _reader_left()
    except OrchestratorError as error:
        return _report(error, error.message, error.hint, error.exit_code, args)
    except click.Abort:
        return _say("Stopped.", STOPPED)
    except KeyboardInterrupt:
        return _say("Stopped.", STOPPED)
    except click.ClickException as error:
        return _report(error, error.format_message(), _usage_hint(error, args), error.exit_code, args)
    except Exception as error:  # noqa: BLE001  the process boundary: a bug is told as a bug, with its traceback kept
        return _report(error, *_bug(error, args), BUG, args)


def _find_cluster(args: Sequence[str]) -> None:
    """Let a verb use the cluster of this machine. Where there never was one, this costs nothing."""
    from orchestrator import paths

    words = [arg for arg in args if not arg.startswith("-")]
    if USE_CLUSTER & {" ".join(words[:1]), " ".join(words[:2])} and paths.own_home().is_dir():
        from orchestrator.cluster.node import here

        here.adopt(os.environ)


def _program() -> str:
    """The name we were called by: completion scripts depend on it."""
    name = Path(sys.argv[0]).name
    return name if name in ("orchestrator", "orch") else "orchestrator"


def _verbose(args: Sequence[str]) -> bool:
    """Read from the command line itself, since it also counts when the command line is wrong."""
    return "-v" in args or "--verbose" in args


def _log_everything() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("orchestrator").setLevel(logging.DEBUG)


def _reader_left() -> int:
    """Whoever read our output (`head`, a pager) has enough. Python's own flush at exit must not complain about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(line: str, code: int) -> int:
    click.echo(line, err=True)
    return code


def _report(error: Exception, message: str, hint: str, code: int, args: Sequence[str]) -> int:
    """Tell an error on stderr, and as JSON on stdout for callers that asked for JSON."""
    if _verbose(args) and not isinstance(error, click.ClickException):
        click.echo(_trace(error), err=True, nl=False)
    if "--json" in args:
        kind = "UsageError" if isinstance(error, click.ClickException) else type(error).__name__
        click.echo(json.dumps({"error": {"type": kind, "message": message, "hint": hint}}, indent=2))
    if code == STOPPED:
        click.echo(message, err=True)
    else:
        label = "internal error" if code == BUG else "error"
        click.echo(f"{click.style(f'{label}:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(hint, err=True)
    return code


def _usage_hint(error: click.ClickException, args: Sequence[str]) -> str:
    """Where to read how the command is called."""
    if isinstance(error, click.NoSuchOption) and error.option_name in ("-m", "--multirun"):
        return "For several values of a setting: orchestrator sweep KEY=VALUE,VALUE ..."
    context = getattr(error, "ctx", None)
    verb = [arg for arg in args if arg in VERBS][:1]
    return f"See: {context.command_path if context else ' '.join([_program(), *verb])} --help"


def _bug(error: Exception, args: Sequence[str]) -> tuple[str, str]:
    """Message and hint for an exception that nobody expected."""
    message = f"{type(error).__name__}: {error}"
    if _verbose(args):
        return message, "This is a bug; please report it with the lines above."
    return message, f"This is a bug; please report it. Traceback: {_keep(_trace(error))} (or run again with -v)."


def _trace(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _keep(text: str) -> str:
    """Write to a file that stays, and name it."""
    import tempfile

    handle, path = tempfile.mkstemp(prefix="orchestrator-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return path


if __name__ == "__main__":
    sys.exit(main())
