"""What is noted beside a growing log: when which part was written, and where its writer was last."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from orchestrator.runtime.worker import log_marks
from orchestrator.runtime.worker.log_marks import LogMarks


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = tmp_path / "rank-0.log"
    log.write_text("left by an earlier attempt\n")
    os.utime(log, (500, 500))
    return log


def notes(tmp_path: Path) -> list[tuple[float, int]]:
    lines = (tmp_path / "marks/rank-0.times").read_text().splitlines()
    return [(float(line.split()[0]), int(line.split()[1])) for line in lines]


def test_growth_is_noted_with_the_time_of_the_write(tmp_path: Path, log: Path) -> None:
    marks = LogMarks(log, tmp_path / "marks/rank-0.times")
    marks.start()
    assert notes(tmp_path) == [(500.0, 27)], "what was there is as old as it is"
    marks.look()
    assert len(notes(tmp_path)) == 1, "nothing new, no note"
    with log.open("a") as file:
        file.write("new\n")
    os.utime(log, (600, 600))
    marks.finish()
    assert notes(tmp_path) == [(500.0, 27), (600.0, 31)]


def test_it_looks_by_itself(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_marks, "INTERVAL_S", 0.01)
    marks = LogMarks(log, tmp_path / "marks/rank-0.times")
    marks.start()
    with log.open("a") as file:
        file.write("new\n")
    waited = threading.Event()
    for _ in range(500):
        if len(notes(tmp_path)) == 2:
            break
        waited.wait(0.01)
    assert [size for _, size in notes(tmp_path)] == [27, 31]
    marks.finish()


def test_the_innermost_line_of_the_persons_own_code_is_noted(tmp_path: Path, log: Path) -> None:
    task = tmp_path / "task.py"
    task.write_text("def loss(act):\n    x = 1\n    return act()\n")
    scope: dict[str, object] = {}
    exec(compile(task.read_text(), str(task), "exec"), scope)  # as a module of theirs would be
    place = tmp_path / "marks/rank-0.place"
    own = lambda file: "task.py" if file == str(task) else None  # noqa: E731
    marks = LogMarks(log, tmp_path / "marks/rank-0.times", place, own, clock=lambda: 7.0)
    marks.start()
    assert not place.exists(), "not in their code"
    scope["loss"](marks.look)  # type: ignore[operator]
    told = {"time": 7.0, "where": "task.py:3", "function": "loss", "code": "return act()"}
    assert json.loads(place.read_text()) == told
    marks.look()
    assert json.loads(place.read_text()) == told, "the last place stays when they are left"
    marks.finish()


def test_a_place_of_an_earlier_attempt_is_forgotten(tmp_path: Path, log: Path) -> None:
    place = tmp_path / "marks/rank-0.place"
    place.parent.mkdir()
    place.write_text("{}")
    marks = LogMarks(log, tmp_path / "marks/rank-0.times", place)
    marks.start()
    assert not place.exists()
    marks.finish()


def test_storage_that_fails_disturbs_nobody(tmp_path: Path, log: Path) -> None:
    (tmp_path / "marks").write_text("a file where the folder should be")
    marks = LogMarks(log, tmp_path / "marks/rank-0.times")
    marks.start()
    marks.finish()
    assert (tmp_path / "marks").is_file()
