"""The ledger: what is written can be read, wherever the writer was cut off."""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.foundation.storage import LocalStore
from orchestrator.sweeps.engine.ledger import CHANGED, ENDED, HALVED, LEDGER, RUNG, SWEEP, TRIAL, Ledger, State


def written(folder: Path) -> Ledger:
    ledger = Ledger(LocalStore(str(folder)), clock=lambda: 1.0)
    ledger.write(SWEEP, state="running", host="here", pid=7)
    ledger.write(TRIAL, number=0, values={"batch": 8}, overrides=["batch=8"], seed=3)
    ledger.write(RUNG, number=0, at=1, step=10, metrics={"loss": 2.0}, seconds=0.5)
    ledger.write(TRIAL, number=1, values={"batch": 16}, overrides=["batch=16"])
    ledger.write(ENDED, number=0, state="finished", metrics={"loss": math.nan}, seconds=1.5)
    ledger.write(CHANGED, number=1, at=1, source=0, values={"batch": 9}, overrides=["batch=9"])
    ledger.write(HALVED, number=1, micro_batch=4)
    ledger.write(ENDED, number=1, state="failed", metrics={}, seconds=0.1, error="ValueError: no")
    return ledger


def test_another_reader_reads_what_was_written(tmp_path: Path) -> None:
    book = written(tmp_path).book
    again = Ledger(LocalStore(str(tmp_path))).read()
    assert repr(again) == repr(book)
    first, second = again.trials[0], again.trials[1]
    assert (first.state, first.seed, first.at, first.seconds) == (State.finished, 3, 1, 1.5)
    assert math.isnan(first.metrics["loss"])
    assert (second.state, second.error, second.values) == (State.failed, "ValueError: no", {"batch": 9})
    assert (second.version, second.sources, second.micro_batch) == (1, [0], 4)
    assert again.unfinished == []


def test_cut_off_at_any_byte_it_says_what_was_whole(tmp_path: Path) -> None:
    written(tmp_path)
    whole = (tmp_path / LEDGER).read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[: number + 1])) for number in range(len(lines))]
    for cut in range(len(whole) + 1):
        folder = tmp_path / "cut"
        folder.mkdir(exist_ok=True)
        (folder / LEDGER).write_bytes(whole[:cut])
        ledger = Ledger(LocalStore(str(folder)))
        assert len(ledger.read().order) == sum(end <= cut for end in ends)
        before = len(ledger.book.order)
        ledger.write(SWEEP, state="running", host="there", pid=8)
        again = Ledger(LocalStore(str(folder))).read()
        assert len(again.order) in (before + 1, before + 2)  # a line that lacked its end alone is whole again
        assert (again.host, again.status) == ("there", "running")


def test_time_of_earlier_sittings_is_kept(tmp_path: Path) -> None:
    moments = iter([0.0, 10.0, 100.0, 105.0])
    ledger = Ledger(LocalStore(str(tmp_path)), clock=lambda: next(moments))
    for state in ("running", "stopped", "running", "finished"):
        ledger.write(SWEEP, state=state, host="", pid=0)
    assert (ledger.book.earlier_s, ledger.book.over, ledger.book.status) == (15.0, 105.0, "finished")
