"""Ranks and visible GPUs, from what the members of a gang say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.runtime.launchers.ray.deaths import last_crash
from orchestrator.runtime.launchers.ray.slots import Member, arrange


def member(node: str, *gpus: str) -> Member:
    return Member(node=node, address="10.0.0.1", pid=1, born=0.0, worker="w", gpus=gpus)


def test_nodes_follow_each_other_as_their_first_members_do() -> None:
    seats = arrange([member(node) for node in "babca"])
    assert [seat.rank for seat in seats] == [0, 2, 1, 4, 3]
    assert [seat.node_rank for seat in seats] == [0, 1, 0, 2, 1]
    assert [seat.local_rank for seat in seats] == [0, 0, 1, 0, 1]
    assert [seat.local_world_size for seat in seats] == [2, 2, 2, 1, 2]
    assert {(seat.world_size, seat.nodes, seat.visible) for seat in seats} == {(5, 3, ())}


@pytest.mark.parametrize(
    ("gpus", "visible", "devices"),
    [
        ([("1",), ("0",)], ("0", "1"), [1, 0]),
        ([("10",), ("9",)], ("9", "10"), [1, 0]),
        # Device number and local rank are the same, also with several GPUs to a worker.
        ([("0", "1"), ("2", "3")], ("0", "2", "1", "3"), [0, 1]),
        ([("GPU-b",), ("GPU-a",)], ("GPU-a", "GPU-b"), [1, 0]),
    ],
)
def test_workers_see_all_gpus_of_their_node_s_gang(
    gpus: list[tuple[str, ...]], visible: tuple[str, ...], devices: list[int]
) -> None:
    seats = arrange([member("a", *own) for own in gpus])
    assert [seat.visible for seat in seats] == [visible] * 2
    assert [seat.device for seat in seats] == devices == [seat.local_rank for seat in seats]
    for seat, own in zip(seats, gpus, strict=True):
        assert seat.visible[seat.device] == own[0]
        assert seat.environment("h", 1)["LOCAL_RANK"] == str(seat.device)


def test_workers_that_share_a_gpu_see_only_that() -> None:
    seats = arrange([member("a", "0"), member("a", "0"), member("a", "1")])
    assert [(seat.local_rank, seat.visible, seat.device) for seat in seats] == [
        (0, ("0",), 0),
        (1, ("0",), 0),
        (2, ("1",), 0),
    ]
    assert [seat.environment("h", 1)["LOCAL_RANK"] for seat in seats] == ["0"] * 3


def test_environment_is_torchrun_s() -> None:
    *_, last = arrange([member("a"), member("b"), member("b")])
    assert last.environment("10.0.0.7", 4321) == {
        "RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "NODE_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.7",
        "MASTER_PORT": "4321",
    }


DUMP = """step 3
Fatal Python error: Segmentation fault

Current thread 0x00007f1 (most recent call first):
  File "train.py", line 3 in loss
  ...

Extension modules: numpy, torch (total: 2)
"""


@pytest.mark.parametrize(
    ("log", "crash"),
    [(DUMP, "Segmentation fault"), (f"{DUMP}another attempt\n", ""), ("step 3\n", ""), ("", "")],
)
def test_the_crash_that_a_log_ends_with(tmp_path: Path, log: str, crash: str) -> None:
    file = tmp_path / paths.worker_log(1)
    file.parent.mkdir()
    file.write_text(log)
    assert last_crash(str(tmp_path), 1) == crash
    assert last_crash(str(tmp_path), 2) == ""
    assert last_crash("s3://bucket/run", 1) == ""
