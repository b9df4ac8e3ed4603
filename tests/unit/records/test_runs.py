"""Runs in run storage: created once, found by any unique beginning, listed whatever is damaged."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import ConfigError, StorageError, UnknownRunError
from orchestrator.plans.types import Plan
from orchestrator.records import runs
from orchestrator.records.runs import Attempt, RunRecord, Status
from tests.unit.cli.verbs.test_runs_command import make_plan


@pytest.fixture(params=["folder", "url"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "folder" else f"memory://{tmp_path.name}/runs"


def make(storage: str, run_id: str, created: float = 1000.0) -> RunRecord:
    return runs.create(make_plan(storage), run_id, clock=lambda: created)


def damage(storage: str, run_id: str, text: str) -> None:
    record = runs.load(storage, run_id)
    record.store.write(paths.RECORD, text)


def test_a_created_run_has_plan_config_and_record(storage: str) -> None:
    record = make(storage, "digits-1")
    assert record.store.list() == [paths.CONFIG, paths.PLAN, paths.RECORD]
    assert runs.load(storage, "digits-1") == record
    assert isinstance(record.plan, Plan)
    assert record.plan.digest == record.plan_digest
    assert record.status is Status.created


def test_ids_sort_by_time_and_differ() -> None:
    early, late = runs.new_id("digits", lambda: 1e9), runs.new_id("digits", lambda: 1e9 + 86400)
    assert early.startswith("digits-2001090")
    assert early < late
    assert runs.new_id("digits", lambda: 1e9) != early


def test_an_id_is_given_once(storage: str) -> None:
    make(storage, "digits-1").store.append("notes", "kept\n")
    with pytest.raises(ConfigError, match=r"Run digits-1 exists already in .*orchestrator resume"):
        make(storage, "digits-1")


def test_a_record_comes_back_as_it_was(storage: str) -> None:
    record = make(storage, "digits-1")
    record.status = Status.failed
    record.attempts = [
        Attempt(number=1, started=1.0, ended=2.0, status=Status.failed, world_size=2, host="a", pid=1, error="x"),
        Attempt(number=2, started=3.0, world_size=2, host="a", pid=2),
    ]
    record.final_metrics = {"val/loss": math.inf, "val/accuracy": 0.5}
    record.save()
    assert "Infinity" not in record.store.read(paths.RECORD).replace('"Infinity"', "")
    assert runs.load(storage, "digits-1") == record


def test_a_unique_beginning_is_enough(storage: str) -> None:
    for run_id in ("digits-1", "digits-10", "digits-20", "text-1"):
        make(storage, run_id)
    assert runs.load(storage, "t").id == "text-1"
    assert runs.load(storage, "digits-2").id == "digits-20"
    assert runs.load(storage, "digits-1").id == "digits-1", "a whole id is never ambiguous"
    with pytest.raises(UnknownRunError, match=r"'dig' is ambiguous: digits-1, digits-10, digits-20\."):
        runs.load(storage, "dig")
    with pytest.raises(UnknownRunError, match=r"There is no run 'digit-20' .*Nearest: digits-20"):
        runs.load(storage, "digit-20")


def test_last_is_the_newest_whatever_its_name(storage: str) -> None:
    make(storage, "a", created=2000.0)
    make(storage, "b", created=1000.0)
    assert runs.load(storage, "last").id == "a"


def test_an_empty_storage_has_no_runs(storage: str) -> None:
    assert runs.list_runs(storage) == []
    with pytest.raises(UnknownRunError, match="There are no runs there"):
        runs.load(storage, "last")


def test_what_is_no_run_is_not_listed(storage: str) -> None:
    store = make(storage, "digits-1").store
    runs.open_store(storage).write(f"{paths.TRACKING}/{paths.RECORD}", "{}")
    runs.open_store(storage).write("notes.txt", "mine")
    assert store.exists(paths.RECORD)
    assert runs.ids(storage) == ["digits-1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ('{"id": "digits-2"', "Expecting"),
        ("[]", "it is a list, not a mapping"),
        ('{"format": 2}', "'attempts' is missing"),
        ('{"format": 2, "attempts": []}', "'status' is missing"),
        ('{"format": 2, "attempts": [{"number": 1}], "status": "failed"}', "'status' is missing"),
        ('{"format": 2, "attempts": [], "status": "failed", "queue": "gpu"}', "unexpected keyword argument 'queue'"),
    ],
)
def test_a_damaged_record_is_told_and_hides_no_other(
    storage: str, text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(storage, "digits-1")
    make(storage, "digits-2", created=2000.0)
    damage(storage, "digits-2", text)
    with caplog.at_level(logging.WARNING):
        assert [record.id for record in runs.list_runs(storage)] == ["digits-1"]
    assert "The record of run digits-2 cannot be read" in caplog.text
    assert runs.load(storage, "last").id == "digits-1"
    with pytest.raises(
        StorageError, match=rf"The record of run digits-2 cannot be read: .*{reason}.* Look at .*digits-2/run.json"
    ):
        runs.load(storage, "digits-2")


def test_a_damaged_record_is_mentioned_by_the_command(tmp_path: Path) -> None:
    """Through the real command: nothing sets up logging there, and the line must reach people all the same."""
    import subprocess
    import sys

    make(str(tmp_path), "digits-1")
    make(str(tmp_path), "digits-2")
    damage(str(tmp_path), "digits-2", "{")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", "runs", "--storage", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "digits-1" in done.stdout
    assert "The record of run digits-2 cannot be read" in done.stderr
    assert done.returncode == 0
