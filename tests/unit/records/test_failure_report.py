"""The first failure first: cause, worker and place, and only then the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import RunFailedError
from orchestrator.records import events
from orchestrator.records.failure_report import FirstFailure, first_failure, with_details
from orchestrator.records.runs import RunRecord, Status
from tests.unit.records.stories import begin, end, fail, make_run, say, tell

TRACE = """Traceback (most recent call last):
  File "/ours/orchestrator/runtime/worker/loop.py", line 151, in _step
    loss = parts.task.loss(parts.engine.model, batch)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/home/me/project/toy/task.py", line 32, in loss
    return self.check(batch)
           ^^^^^^^^^^^^^^^^^
  File "/home/me/project/toy/task.py", line 40, in check
    raise ValueError("token 17 is not in the vocabulary")
ValueError: token 17 is not in the vocabulary
"""
PROJECT = "/home/me/project"


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    record = make_run(tmp_path)
    record.project = PROJECT
    begin(record)
    tell(record, events.PLACED, 0, nodes={"0": "node-a", "1": "node-b"})
    tell(record, events.METRICS, 9, writer="rank-0", step=6, metrics={"train/loss": 1.0})
    return record


def report(record: RunRecord) -> FirstFailure:
    end(record, Status.failed, "what the driver said\nwhat to do")
    found = first_failure(record)
    assert found
    return found


def test_a_persons_exception(record: RunRecord) -> None:
    fail(
        record, 0, "RuntimeError", "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed", at=1
    )
    fail(
        record,
        1,
        "ValueError",
        "token 17 is not in the vocabulary",
        at=2,
        where=f"{PROJECT}/toy/task.py:40",
        code='raise ValueError("token 17 is not in the vocabulary")',
        function="check",
        traceback=TRACE,
    )
    say(record, 1, (1, f"batch 6\ncollect2: error: ld returned 1 exit status\nbatch 7\n{TRACE}"))
    assert report(record).lines() == [
        "ValueError: token 17 is not in the vocabulary",
        "  worker 1 on node-b, at toy/task.py:40 in check, after step 6",
        '      raise ValueError("token 17 is not in the vocabulary")',
        "  last lines of its log:",
        "    | batch 6",
        "    | batch 7",
        "  traceback:",
        '      File "toy/task.py", line 32, in loss',
        "        return self.check(batch)",
        '      File "toy/task.py", line 40, in check',
        '        raise ValueError("token 17 is not in the vocabulary")',
        "    ValueError: token 17 is not in the vocabulary",
        "  other workers:",
        "    worker 0 lost the connection",
    ]


def test_a_submitted_projects_places_are_told_as_in_the_project(record: RunRecord) -> None:
    there = "/cache/projects/0123"
    fail(record, 1, "ValueError", "bad", where=f"{there}/toy/task.py:40", project=there)
    assert report(record).where == "toy/task.py:40"


def test_a_place_outside_the_project_is_told_in_full(record: RunRecord) -> None:
    fail(record, 1, "ValueError", "bad", where="/elsewhere/task.py:40")
    assert report(record).where == "/elsewhere/task.py:40"


def test_a_worker_that_was_killed_is_told_with_the_line_it_was_last_seen_in(record: RunRecord) -> None:
    fail(record, 0, "RuntimeError", "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed")
    message = "worker 1 on node-b died without a word, as when the system kills it for want of memory"
    verdict = {"cause": "lost", "message": message, "rank": 1, "lost": [1]}
    record.store.write(paths.verdict(1), json.dumps(verdict))
    place = {"time": 5.0, "where": "toy/task.py:12", "function": "features", "code": "table = torch.ones(10**10)"}
    record.store.write(paths.last_place(1), json.dumps(place).ljust(1000) + "\n")
    say(record, 1, (1, "making features\n"))
    end(record, Status.failed, f"Run demo-1 failed: {message}.\nwhat to do")
    found = first_failure(record)
    assert found
    assert found.lines() == [
        f"Run demo-1 failed: {message}.",
        "  worker 1 on node-b, last seen at toy/task.py:12 in features, after step 6",
        "      table = torch.ones(10**10)",
        "  if memory ran out: a smaller micro_batch, strategy=zero3, or more with cluster.memory_per_worker",
        "  last lines of its log:",
        "    | making features",
        "  other workers:",
        "    worker 0 lost the connection",
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("MemoryError", ""),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_want_of_memory_is_called_so(record: RunRecord, kind: str, message: str) -> None:
    fail(record, 1, kind, message)
    lines = report(record).lines()
    assert lines[0] == (f"{kind}: {message}" if message else kind)
    assert lines[2].startswith("  memory ran out: a smaller micro_batch")


def test_a_missing_package_is_told_with_the_way_out(record: RunRecord) -> None:
    fail(
        record,
        1,
        "ModuleNotFoundError",
        "No module named 'einops'",
        where=f"{PROJECT}/toy/task.py:3",
        code="import einops",
    )
    assert report(record).lines()[:4] == [
        "ModuleNotFoundError: No module named 'einops'",
        "  worker 1 on node-b, at toy/task.py:3, after step 6",
        "      import einops",
        "  name the package in requirements.txt, or install it on the nodes",
    ]


def test_where_no_worker_said_anything_the_drivers_words_are_told(record: RunRecord) -> None:
    assert report(record).lines() == ["what the driver said", "  what to do"]


def test_damaged_records_hide_nothing_else(record: RunRecord) -> None:
    record.store.write(paths.failure(1, 0), "{half")
    record.store.write(paths.verdict(1), "[]")
    assert report(record).message == "what the driver said"


def test_further_attempts_are_counted(record: RunRecord) -> None:
    begin(record, 2)
    fail(record, 1, "ValueError", "bad")
    assert report(record).lines()[1] == "  worker 1, attempt 2"


def test_only_the_last_attempt_counts(record: RunRecord) -> None:
    fail(record, 1, "ValueError", "bad")
    begin(record, 2)
    end(record, Status.finished)
    assert first_failure(record) is None


def test_the_error_of_a_command_is_told_with_all_there_is_to_say(record: RunRecord) -> None:
    fail(record, 1, "ValueError", "bad", where=f"{PROJECT}/toy/task.py:40")
    end(record, Status.failed, "x")
    error = with_details(RunFailedError("ValueError: bad (worker 1, task.py:40)", "Go on with: resume"), record)
    assert error.message == "ValueError: bad (worker 1, task.py:40)"
    assert error.hint == "  worker 1 on node-b, at toy/task.py:40, after step 6\nGo on with: resume"


def test_data_for_programs(record: RunRecord) -> None:
    fail(record, 1, "ValueError", "bad", where=f"{PROJECT}/toy/task.py:40")
    told = report(record).to_dict()
    assert (told["message"], told["rank"], told["node"], told["where"], told["step"]) == (
        "ValueError: bad",
        1,
        "node-b",
        "toy/task.py:40",
        6,
    )
    json.dumps(told)
