"""The boundary: every way to fail has one line, an exit code, and JSON where it was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from orchestrator import __version__
from orchestrator.cli import main as cli_main
from orchestrator.cli.main import VERBS, main
from orchestrator.errors import ConfigError, MachineError, RunFailedError, RunStoppedError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | int | None]:
    """A verb `probe` that does what is put into this list: raise, or return a code."""
    outcome: list[BaseException | int | None] = [None]

    @click.command()
    @click.option("--json", is_flag=True)
    @click.option("-v", "--verbose", is_flag=True)
    def probe(json: bool, verbose: bool) -> int | None:
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    monkeypatch.setitem(VERBS, "probe", (f"{__name__}:probe", "For tests."))
    monkeypatch.setattr(sys.modules[__name__], "probe", probe, raising=False)
    return outcome


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 0),
        (3, 3),
        (RunFailedError("ValueError: no"), 1),
        (ConfigError("lr=-1 is out of range."), 2),
        (click.UsageError("no"), 2),
        (MachineError("no GPU"), 3),
        (RuntimeError("oops"), 4),
        (RunStoppedError("stopped"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(verb: list[BaseException | int | None], outcome: BaseException | int | None, code: int) -> None:
    verb[0] = outcome
    assert main(["probe"]) == code


def test_error_and_hint_are_two_lines(verb: list[BaseException | int | None], capsys: Capture) -> None:
    verb[0] = ConfigError("optimizer.lr=-1 is out of range.", "Give a positive number.")
    main(["probe"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: optimizer.lr=-1 is out of range.\nGive a positive number.\n"


def test_errors_as_json(verb: list[BaseException | int | None], capsys: Capture) -> None:
    verb[0] = ConfigError("a", "b")
    assert main(["probe", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"type": "ConfigError", "message": "a", "hint": "b"}}
    assert err.startswith("error: a")


def test_mistakes_in_the_command_line_as_json(verb: list[BaseException | int | None], capsys: Capture) -> None:
    assert main(["probe", "--json", "--nonsense"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"


def test_a_bug_keeps_its_traceback(
    verb: list[BaseException | int | None], capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verb[0] = RuntimeError("oops")
    main(["probe"])
    err = capsys.readouterr().err
    (kept,) = tmp_path.iterdir()
    assert err.startswith("internal error: RuntimeError: oops\n")
    assert str(kept) in err
    assert "Traceback" not in err.replace("Traceback: ", "")
    assert "Traceback (most recent call last)" in kept.read_text()


def test_verbose_shows_the_traceback(verb: list[BaseException | int | None], capsys: Capture) -> None:
    verb[0] = RuntimeError("oops")
    assert main(["probe", "-v"]) == 4
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_verbose_shows_where_an_error_came_from(verb: list[BaseException | int | None], capsys: Capture) -> None:
    verb[0] = ConfigError("a")
    assert main(["probe", "-v"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: a\n")


def test_unknown_verb(capsys: Capture) -> None:
    assert main(["tran"]) == 2
    assert "There is no command 'tran'. Nearest: train" in capsys.readouterr().err


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"orchestrator {__version__}\n"


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_help_lists_all_verbs_and_exit_codes(args: list[str], capsys: Capture) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in VERBS)
    assert "130  stopped by you" in out


def test_all_verbs_can_be_imported() -> None:
    for name in VERBS:
        assert isinstance(cli_main.cli.get_command(click.Context(cli_main.cli), name), click.Command), name


def test_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    main(["--version"])
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m orchestrator.cli.main completion bash | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
