"""What an attempt failed of: the exceptions that workers leave, and those that only follow from another's."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.records.failures import Cause, Failure, is_out_of_memory, judge

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:33190"


def record(rank: int, at: float, kind: str, message: str) -> dict[str, Any]:
    return {"rank": rank, "time": at, "type": kind, "message": message, "where": "task.py:3"}


def test_workers_that_say_nothing_were_lost() -> None:
    assert judge([]) == Failure(cause=Cause.lost, message="the workers ended without a result")
    assert judge([], "node b went away") == Failure(cause=Cause.lost, message="node b went away")
    assert judge([], "killed", [2, 1]) == Failure(cause=Cause.lost, message="killed", rank=1)


def test_an_exception_without_words_is_told_by_its_name() -> None:
    assert judge([record(0, 1.0, "MemoryError", "")]).message == "MemoryError (worker 0, task.py:3)"


@pytest.mark.parametrize(
    ("told", "ran_out"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried",
            True,
        ),
        ("MemoryError: ", True),
        ("worker 0 got killed by Ray, for the node ran out of memory", True),
        ("worker 0 died without a word, as when the system kills it for want of memory", False),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_memory_that_ran_out(told: str, ran_out: bool) -> None:
    assert is_out_of_memory(told) is ran_out


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RuntimeError", GLOO),
        (
            "DistBackendError",
            "NCCL error in: ProcessGroupNCCL.cpp:42, remote process exited or there was a network error",
        ),
        ("DistNetworkError", "The client socket has timed out after 600000ms"),
    ],
)
def test_a_broken_connection_is_no_cause(kind: str, message: str) -> None:
    found = judge([record(2, 5.0, kind, message), record(0, 4.0, kind, message)])
    assert found == Failure(cause=Cause.lost, message="worker 0 lost the connection to the others", rank=0)
    assert judge([record(0, 4.0, kind, message)], "worker 1 was ended by SIGKILL").message == (
        "worker 1 was ended by SIGKILL"
    )


def test_a_workers_own_exception_is_the_cause_even_if_another_is_heard_of_first() -> None:
    records = [record(0, 1.0, "RuntimeError", GLOO), record(1, 2.0, "ValueError", "token 17\nis unknown")]
    assert judge(records, "torchrun ended with exit code 1") == Failure(
        cause=Cause.exception, message="ValueError: token 17 is unknown (worker 1, task.py:3)", rank=1
    )


@pytest.mark.parametrize("message", ["Connection reset by peer", "timeout while reading gloo.txt"])
def test_a_persons_own_network_trouble_is_their_exception(message: str) -> None:
    assert judge([record(0, 1.0, "ConnectionResetError", message)]).cause is Cause.exception


def test_what_the_config_asks_for_is_told_apart() -> None:
    found = judge([record(0, 1.0, "TargetError", "model._target_ names nothing.")])
    assert found == Failure(cause=Cause.config, message="model._target_ names nothing.", rank=0)
    assert judge([record(0, 1.0, "StorageError", "No space left.")]).cause is Cause.exception


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("DataLoader worker (pid 714) is killed by signal: Killed. ", Cause.lost),
        ("DataLoader worker (pid(s) 714, 715) exited unexpectedly", Cause.lost),
        ("DataLoader worker (pid 714) is killed by signal: Bus error. It is possible that ...", Cause.exception),
        ("Caught ValueError in DataLoader worker process 0.", Cause.exception),
    ],
)
def test_a_killed_process_that_makes_batches_is_something_lost(message: str, cause: Cause) -> None:
    found = judge([record(1, 4.0, "RuntimeError", message), record(0, 4.1, "RuntimeError", GLOO)], "killed", [0])
    assert (found.cause, found.rank) == (cause, 1)
    assert message.split(". ")[0].strip() in found.message
