"""Logs as they are read: merged by time, cut by rank, time and pattern, without noise, and followed."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import ConfigError, UnknownRunError
from orchestrator.foundation.storage import open_store
from orchestrator.records import events, logs
from orchestrator.records.logs import Logs, Wanted, parse_pattern, parse_since
from orchestrator.records.noise import Filter
from orchestrator.records.runs import RunRecord
from tests.unit.records.stories import START, begin, make_run, say, tell


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    """A run on two nodes that moved once."""
    record = make_run(tmp_path)
    begin(record)
    tell(record, events.PLACED, 0, nodes={"0": "node-a", "1": "node-b"})
    say(record, 0, (1000, "first\n"), (1002, "third\n"), (1004, "fifth\n"))
    say(record, 1, (1001, "second\n"), (1003, "fourth\n"))
    return record


def texts(record: RunRecord, wanted: Wanted | None = None) -> list[str]:
    return [line.text for line in Logs(record.store, wanted or Wanted()).lines()]


def test_lines_of_all_workers_come_in_the_order_of_their_time(record: RunRecord) -> None:
    assert texts(record) == ["first", "second", "third", "fourth", "fifth"]


def test_each_line_names_its_worker_node_and_time(record: RunRecord) -> None:
    second = list(Logs(record.store, Wanted()).lines())[1]
    assert (second.source, second.rank, second.node, second.time) == ("rank 1 node-b", 1, "node-b", START + 1001)


def test_a_line_belongs_to_the_node_where_its_worker_was_then(record: RunRecord) -> None:
    begin(record, 2)
    tell(record, events.PLACED, 1, nodes={"0": "node-c"})
    say(record, 0, (2002, "moved\n"), (None, "not noted yet\n"))
    mine = list(Logs(record.store, Wanted(ranks=frozenset([0]))).lines())
    assert [line.node for line in mine] == ["node-a", "node-a", "node-a", "node-c", "node-c"]


def test_the_drivers_lines_stand_among_them_unless_a_worker_is_asked_for(record: RunRecord) -> None:
    say(record, None, (1001.5, "training 10 steps\n"))
    assert texts(record) == ["first", "second", "training 10 steps", "third", "fourth", "fifth"]
    assert texts(record, Wanted(ranks=frozenset([1]))) == ["second", "fourth"]
    assert [line.source for line in Logs(record.store, Wanted()).lines()].count("driver") == 1


def test_what_a_killed_worker_printed_last_is_there_although_nobody_noted_when(record: RunRecord) -> None:
    say(record, 1, (None, "last words\n"))
    assert texts(record)[-1] == "last words"
    assert list(Logs(record.store, Wanted()).lines())[-1].time is None


def test_without_any_times_workers_come_one_after_the_other(tmp_path: Path) -> None:
    record = make_run(tmp_path)
    say(record, 0, (None, "a\nb\n"))
    say(record, 1, (None, "c\n"))
    assert texts(record) == ["a", "b", "c"]


def test_since_leaves_out_what_was_written_before_and_nothing_else(record: RunRecord) -> None:
    assert texts(record, Wanted(since=START + 1002)) == ["third", "fourth", "fifth"]
    assert texts(record, Wanted(since=START + 1003.5)) == ["fifth"]
    assert texts(record, Wanted(since=START + 9999)) == []
    say(record, 0, (None, "just now\n"))
    assert texts(record, Wanted(since=START + 9999)) == ["just now"]


def test_a_pattern_chooses_lines(record: RunRecord) -> None:
    assert texts(record, Wanted(pattern=parse_pattern("^f.*th$"))) == ["fourth", "fifth"]


def test_a_follower_is_told_each_line_once_and_half_a_line_when_it_is_whole(record: RunRecord) -> None:
    logs_ = Logs(record.store, Wanted())
    assert len(list(logs_.lines())) == 5
    assert list(logs_.lines()) == []
    say(record, 0, (1005, "six"))
    assert list(logs_.lines()) == []
    say(record, 0, (1006, "th\n"))
    say(record, 2, (1006, "a new worker\n"))
    assert [line.text for line in logs_.lines()] == ["sixth", "a new worker"]


def test_a_progress_bar_is_shown_as_it_ended(record: RunRecord) -> None:
    say(record, 1, (1007, "10%\r50%\r100%\n"), (1008, "windows\r\n"))
    assert texts(record, Wanted(ranks=frozenset([1])))[-2:] == ["100%", "windows"]


def test_lines_are_not_cut_at_odd_characters(record: RunRecord) -> None:
    say(record, 0, (1007, "a\x0bb\x0cc\u2028d\n"))
    assert texts(record)[-1] == "a\x0bb\x0cc\u2028d"


def test_bytes_that_are_no_text_shift_no_times(record: RunRecord) -> None:
    with (Path(record.root) / paths.worker_log(1)).open("ab") as file:
        file.write(b"\xff\xfe broken\n")
    say(record, 1, (1010, ""), (1020, "after\n"))
    lines = [line for line in Logs(record.store, Wanted()).lines() if line.rank == 1]
    assert [(line.text, line.time) for line in lines[-1:]] == [("after", START + 1020)]


def test_large_logs_are_read_piece_by_piece(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "CHUNK", 16)
    say(record, 0, (1009, "".join(f"line {number}\n" for number in range(100))))
    assert texts(record)[-100:] == [f"line {number}" for number in range(100)]


def test_in_an_object_store_logs_read_the_same(tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path.name}/demo-1")
    for number, text in enumerate(("one\ntwo\n", "three\n", "four\n"), 1):
        store.append(paths.worker_log(0), text)
        store.append(paths.log_times(paths.worker_log(0)), f"{START + number:.3f} {number}\n")
    assert [(line.text, line.time) for line in Logs(store, Wanted()).lines()] == [
        ("one", START + 1),
        ("two", START + 1),
        ("three", START + 2),
        ("four", START + 3),
    ]
    assert [line.text for line in Logs(store, Wanted(since=START + 2)).lines()] == ["three", "four"]
    assert logs.ending(store, paths.worker_log(0), 6) == "three\nfour\n"
    assert logs.last_lines(store, 0, 2) == ["three", "four"]


def test_ranks_that_there_are_not(record: RunRecord) -> None:
    logs.check_ranks(record.store, record.id, [0, 1], None)
    logs.check_ranks(record.store, record.id, [3], 4)
    with pytest.raises(UnknownRunError, match=r"Run demo-1 has no worker of rank 2\. It has ranks 0 to 1\."):
        logs.check_ranks(record.store, record.id, [1, 2], 2)


def test_the_end_of_a_log_begins_with_a_whole_line(record: RunRecord) -> None:
    assert logs.ending(record.store, paths.worker_log(0), 9) == "fifth\n"
    assert logs.ending(record.store, paths.worker_log(0), 1000) == "first\nthird\nfifth\n"
    assert logs.ending(record.store, "logs/nothing.log", 9) == ""


NOW = datetime.datetime(2026, 1, 31, 15, 0, 0).timestamp()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - 90),
        ("10m", NOW - 600),
        ("1.5h", NOW - 5400),
        ("1d", NOW - 86400),
        ("9:30", NOW - 5.5 * 3600),
        ("14:59:30", NOW - 30),
        ("2026-01-31", NOW - 15 * 3600),
        ("2026-01-31T14:00", NOW - 3600),
        ("2026-01-31 14:00:01", NOW - 3599),
    ],
)
def test_moments_as_people_write_them(text: str, moment: float) -> None:
    assert parse_since(text, NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "10", "-5m", "25:00", "", "2026-13-01", "10 m"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--since .* is no time. Write a span, as 90s"):
        parse_since(text, NOW)


def test_what_is_no_pattern() -> None:
    with pytest.raises(ConfigError, match=r"--grep '\(' is no regular expression: missing \)"):
        parse_pattern("(")


SITE = "/venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    "line",
    [
        "[2026-11-21 03:15:25,019] [WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU.",
        "[2026-11-21 03:15:25,019] [INFO] [config.py:1023:print]   zero_enabled ................. True",
        "2026-11-21 08:00:00,000\tINFO worker.py:1234 -- Connecting to existing Ray cluster",
        "[2026-11-21 08:00:00,123 W 12345 12399] core_worker.cc:123: something",
        "(raylet) Spilled 2048 MiB",
        "(autoscaler +5s) Tip: use `ray status`",
        "[rank0]:[W1121 08:00:00.123456789 ProcessGroupNCCL.cpp:1250] Warning: destroy_process_group() was not called",
        "[W1121 08:00:00.123456789 socket.cpp:755] [c10d] The client socket failed",
        "[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1",
        "/usr/bin/ld: cannot find -laio: No such file or directory",
        "collect2: error: ld returned 1 exit status",
        "Using /root/.cache/torch_extensions/py311_cpu as PyTorch extensions root...",
        "Emitting ninja build file /root/x/build.ninja...",
        "Time to load cpu_adam op: 2.3 seconds",
        f"{SITE}/torch/distributed/c10d_logger.py:83: FutureWarning: `torch.x` is deprecated.",
    ],
)
def test_noise(line: str) -> None:
    assert Filter().is_noise(line)


@pytest.mark.parametrize(
    "line",
    [
        "loss 0.5",
        "",
        "[rank 1] hello",
        "[rank1]: my own line",
        "[2026-11-21 03:15:25,019] [ERROR] [engine.py:213:step] gradient overflow",
        "[2026-11-21 08:00:00,123 E 12345 12399] core_worker.cc:123: something",
        "2026-11-21 08:00:00,000 INFO training began",
        "[INFO] epoch 1",
        "(pidfile) is there",
        "/home/me/project/task.py:83: UserWarning: labels are not sorted",
        f"{SITE}/pandas/core.py:1: FutureWarning: of a library of the person's own choice",
        "Using 4 workers",
        "Traceback (most recent call last):",
    ],
)
def test_no_noise(line: str) -> None:
    assert not Filter().is_noise(line)


def test_the_code_below_a_warning_goes_with_it_and_nothing_more() -> None:
    noise = Filter()
    lines = [f"{SITE}/torch/x.py:83: FutureWarning: old", "  return func(*args)", "  my own indented line"]
    assert [noise.is_noise(line) for line in lines] == [True, True, False]


def test_an_exception_that_torch_tells_again_is_told_once() -> None:
    noise = Filter()
    lines = [
        "ValueError: x",
        "[rank1]: Traceback (most recent call last):",
        "[rank1]:   File 'x'",
        "[rank1]: ValueError: x",
        "bye",
    ]
    assert [noise.is_noise(line) for line in lines] == [False, True, True, True, False]


def test_noise_is_shown_when_it_is_asked_for(record: RunRecord) -> None:
    say(record, 0, (1009, "collect2: error: ld returned 1 exit status\n"))
    assert len(texts(record)) == 5
    assert len(texts(record, Wanted(noise=True))) == 6
