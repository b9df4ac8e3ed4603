"""What a ledger says, worked out; and how population based training changes values."""

from __future__ import annotations

import random
from typing import Any

import pytest

from orchestrator.cli.verbs.sweep import command
from orchestrator.cli.views import sweep
from orchestrator.sweeps.engine.ledger import CHANGED, ENDED, RUNG, SWEEP, TRIAL, Book
from orchestrator.sweeps.record import SweepRecord
from orchestrator.sweeps.report.report import Report


def record_of(**changes: Any) -> SweepRecord:
    given: dict[str, Any] = {
        "name": "s",
        "job": "digits",
        "created": 0.0,
        "root": "/runs/s",
        "project": "/",
        "overrides": ["job=digits", "sweep=rates", "sweep.seed=3", "job.epochs=9", "batch=8,16", "data.path='a b'"],
        "config_name": "config",
        "config_dir": None,
        "digest": "",
        "space": {"batch": "8, 16"},
        "search": "grid",
        "scheduler": "asha",
        "trials": 5,
        "objectives": {"loss": "min"},
        "length": 9,
        "unit": "epochs",
        "gpus": 0.0,
        "workers": 2,
    }
    return SweepRecord(**{**given, **changes})


def report_of(*trials: tuple[str, float, float], **changes: Any) -> Report:
    """Trials as (state, loss, how far); each trained a minute for each epoch."""
    book = Book()
    book.take({"kind": SWEEP, "time": 100.0, "state": "running", "host": "", "pid": 0})
    for number, (state, loss, at) in enumerate(trials):
        values = {"batch": 8 * (number + 1)}
        said = {"number": number, "metrics": {"loss": loss, "parameters": 10.0 - number}, "seconds": 60 * at}
        book.take({"kind": TRIAL, "time": 1, "values": values, "overrides": [f"batch={values['batch']}"], **said})
        if state != "waiting":
            book.take({"kind": RUNG, "time": 2, "at": at, "step": 1, **said})
        if state not in ("running", "waiting"):
            book.take({"kind": ENDED, "time": 100.0 + 10 * (number + 1), "state": state, "error": "", **said})
    return Report(record=record_of(**changes), book=book, clock=lambda: 200.0)


def test_the_best_is_a_finished_trial() -> None:
    report = report_of(
        ("finished", 0.5, 9), ("pruned", 0.1, 1), ("finished", 0.3, 9), ("finished", float("nan"), 9), ("failed", 0, 1)
    )
    best = report.best()
    assert best
    assert best.number == 2
    assert [trial.number for trial in report.ranked()] == [2, 0, 1]
    assert (
        report_of(("finished", 0.5, 9), ("finished", 0.3, 9), objectives={"loss": "max"}).best()
        == report.book.trials[0]
    )


def test_the_front_has_what_nothing_beats() -> None:
    report = report_of(
        ("finished", 0.1, 9),
        ("finished", 0.2, 9),
        ("finished", 0.05, 9),
        ("pruned", 0.0, 1),
        objectives={"loss": "min", "parameters": "max"},
    )
    assert [trial.number for trial in report.front()] == [0, 2]


def test_time_spent_and_saved() -> None:
    report = report_of(("finished", 0.5, 9), ("pruned", 0.6, 3), ("running", 0.7, 1))
    assert report.spent == pytest.approx((9 + 3 + 1) * 60 * 2 / 3600)
    assert report.saved == pytest.approx(6 * 60 * 2 / 3600)
    assert report.unit == "worker hours"
    assert report.counts() == {"running": 1, "finished": 1, "pruned": 1, "waiting": 2}
    assert report.eta_s == pytest.approx(100 / 2 * 3)
    held = report_of(("finished", 0.5, 9), gpus=0.5)
    assert (held.unit, held.spent) == ("GPU hours", pytest.approx(9 * 60 * 2 * 0.5 / 3600))


def test_what_was_under_way_when_a_sweep_ended_is_interrupted() -> None:
    report = report_of(("running", 0.5, 3))
    report.book.take({"kind": SWEEP, "time": 150.0, "state": "stopped", "message": ""})
    assert report.counts() == {"interrupted": 1, "waiting": 4}
    assert report.eta_s is None
    assert report.elapsed_s == 50


def test_the_command_that_trains_a_trial_in_full_leaves_out_the_search() -> None:
    report = report_of(("finished", 0.5, 9), ("finished", 0.4, 9))
    assert command(report, 1) == "orchestrator train job=digits job.epochs=9 'data.path='\"'\"'a b'\"'\"'' batch=16"


def test_the_live_view_tells_counts_best_hours_and_time_to_go() -> None:
    lines = sweep.standing(report_of(("finished", 0.5, 9), ("pruned", 0.6, 3)))
    assert lines == [
        "2/5 trials  3 waiting  1 finished  1 pruned",
        "best   trial 0 finished  loss 0.5  batch=8",
        "spent  0.4 worker hours, 0.2 saved by ending trials early   ETA 2 min",
    ]


def test_changed_values_stay_in_the_space() -> None:
    from orchestrator.sweeps.definition import define
    from orchestrator.sweeps.search.schedulers import explore

    definition = define(
        [
            "job=digits",
            "optimizer.lr=tag(log,interval(1e-3,1e-1))",
            "batch=range(16,65,16)",
            "job.clip=interval(1,2)",
            "sweep.constraints=['batch < 64']",
        ]
    )
    values: dict[str, Any] = {"optimizer.lr": 0.09, "batch": 48, "job.clip": 1.1}
    seen = set()
    for number in range(200):
        near = explore(definition, values, random.Random(number))
        assert 1e-3 <= near["optimizer.lr"] <= 1e-1
        assert near["batch"] in (16, 32, 48)
        assert 1 <= near["job.clip"] <= 2
        seen.add(near["batch"])
    assert seen == {16, 32, 48}
    assert explore(definition, values, random.Random(1)) == explore(definition, values, random.Random(1))


def test_a_change_is_kept_in_the_book() -> None:
    report = report_of(("running", 0.5, 3), ("running", 0.4, 3))
    report.book.take(
        {
            "kind": CHANGED,
            "time": 3,
            "number": 0,
            "source": 1,
            "at": 3,
            "values": {"batch": 9},
            "overrides": ["batch=9"],
        }
    )
    trial = report.book.trials[0]
    assert (trial.version, trial.sources, trial.overrides) == (1, [1], ["batch=9"])
