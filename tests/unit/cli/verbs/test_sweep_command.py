"""`orchestrator sweep` as it is typed, without carrying anything out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.cli.views import sweep
from orchestrator.foundation.storage import LocalStore
from orchestrator.sweeps import record
from orchestrator.sweeps.definition import define
from orchestrator.sweeps.engine.ledger import ENDED, SWEEP, TRIAL, Ledger
from orchestrator.sweeps.report.plots import draw
from orchestrator.sweeps.report.report import Report


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def finished() -> Report:
    """A sweep of two trials that is over."""
    made = record.create(define(["job=digits", "optimizer.lr=1e-3,1e-2", "job.epochs=3"]), "mine", 0, 1)
    ledger = Ledger(LocalStore(made.root))
    ledger.write(SWEEP, state="running", host="elsewhere", pid=1)
    for number, lr in enumerate((1e-3, 1e-2)):
        ledger.write(TRIAL, number=number, values={"optimizer.lr": lr}, overrides=[f"optimizer.lr={lr}"])
        metrics = {"accuracy": 0.5 + number / 10, "loss": 1.0}
        ledger.write(ENDED, number=number, state="finished", metrics=metrics, seconds=2.0)
    ledger.write(SWEEP, state="finished", message="")
    return Report(record=made, book=ledger.book)


def test_dry_run_of_a_grid_lists_its_trials(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--dry-run", "job=digits", "batch=32,64", "optimizer.lr=1e-3,1e-2"]) == 0
    out = capsys.readouterr().out
    assert "search      grid for max accuracy" in out
    assert "trials      4 of 10 epochs, at most 40 in all" in out
    assert "  batch=32 optimizer.lr=0.001\n  batch=32 optimizer.lr=0.01\n" in out
    assert not Path("runs").exists()


def test_dry_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--dry-run", "--json", "job=digits", "sweep=rates"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["search"], told["scheduler"], told["trials"], told["rungs"]) == ("tpe", "asha", 20, [1, 3, 9])
    assert len(told["samples"]) == 20


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["job=digits"], "error: Nothing is swept: no setting has more than one value."),
        (["job=digits", "optimizer.lrr=1,2"], "error: optimizer.lrr is not a setting"),
        (
            ["--name", "list", "job=digits", "batch=32,64"],
            "error: A sweep cannot have the name 'list': it is a command.",
        ),
        (["best", "mine"], "error: There is no sweep 'mine' in "),
        (["job=digits", "batch=32,64", "cluster.address=127.0.0.1:1"], "error: "),
    ],
)
def test_what_is_wrong_is_told_in_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words]) in (2, 3)
    assert capsys.readouterr().err.startswith(line)
    assert not Path("runs").exists()


def test_other_commands_point_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "job=digits", "batch=32,64"]) == 2
    assert "Give one value; to try several: orchestrator sweep." in capsys.readouterr().err
    assert main(["train", "-m", "job=digits"]) == 2
    assert "orchestrator sweep KEY=VALUE,VALUE" in capsys.readouterr().err


def test_list_show_and_best(finished: Report, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "list"]) == 0
    assert "finished  2/2     grid    accuracy 0.6 (trial 1)" in capsys.readouterr().out
    assert main(["sweep", "show", "mine"]) == 0
    out = capsys.readouterr().out
    assert out.index("1      finished") < out.index("0      finished")
    assert main(["sweep", "best", "last"]) == 0
    out = capsys.readouterr().out
    assert "train it in full: orchestrator train job=digits job.epochs=3 optimizer.lr=0.01" in out
    assert main(["sweep", "best", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["number"] == 1
    assert main(["sweep", "stop", "mine"]) == 2
    assert "Sweep mine is not running." in capsys.readouterr().err


def test_the_live_view_draws_how_it_stands(finished: Report) -> None:
    from rich.console import Console

    text = io.StringIO()
    view = sweep.LiveView(Console(file=text, force_terminal=True, width=120, _environ={"TERM": "xterm"}))
    view.say("hello")
    view.show(finished)
    view._live.refresh()
    view.close()
    assert "hello" in text.getvalue()
    assert "2/2 trials  2 finished" in text.getvalue()
    assert "best   trial 1 finished  accuracy 0.6" in text.getvalue()


def test_a_line_for_each_trial_that_ended_since_the_sitting_began(finished: Report) -> None:
    text = io.StringIO()
    view = sweep.PlainView(text)
    view.show(finished)
    view.show(finished)
    assert text.getvalue().splitlines() == [
        "trial 0 finished  accuracy 0.5  optimizer.lr=0.001",
        "trial 1 finished  accuracy 0.6  optimizer.lr=0.01",
    ]


def test_pictures(finished: Report, tmp_path: Path) -> None:
    draw(finished, tmp_path)
    page = (tmp_path / "sweep.html").read_text()
    for title in ("History", "Parallel coordinates"):
        assert f'"text":"{title}"' in page
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
