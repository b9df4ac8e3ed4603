"""`jobs`, `logs`, `attach` and `why` as people call them: on stories in run storage, without any cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from orchestrator import paths
from orchestrator.cli.main import main
from orchestrator.cli.verbs.jobs import STATES
from orchestrator.records import events
from orchestrator.records import jobs as records
from orchestrator.records.runs import RunRecord, Status
from orchestrator.records.status import State
from tests.unit.records.stories import begin, end, fail, make_run, say, submit, tell

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's folder, and a home without clusters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    """A job that trains on two nodes."""
    record = make_run(tmp_path / "runs", "demo-1")
    records.note_here(submit(tmp_path / "runs", "demo-1"))
    begin(record)
    tell(record, events.PLACED, 0, nodes={"0": "node-a", "1": "node-b"})
    started = {"world_size": 2, "total_steps": 10, "device": "cpu:0", "parameters": 272}
    tell(record, events.STARTED, 1, writer="rank-0", step=0, **started)
    tell(
        record, events.METRICS, 9, writer="rank-0", step=7, metrics={"train/loss": 1.0, "train/samples_per_second": 5.0}
    )
    say(record, 0, (1000, "hello from 0\n"), (1002, "collect2: error: ld returned 1 exit status\n"))
    say(record, 1, (1001, "hello from 1\n"))
    return record


class Says:
    """What a command printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        try:
            code = main(list(words))
        except SystemExit as left:
            code = int(left.code or 0)
        out = self._capsys.readouterr()
        return code, out.out, out.err

    def data(self, *words: str) -> object:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    return Says(capsys)


class Follower:
    """A command that goes on until it is left."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "orchestrator.cli.main", *words]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def leave(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err

    def wait(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def lines_of(stream: IO[str] | None, count: int) -> list[str]:
    assert stream
    return [stream.readline().rstrip("\n") for _ in range(count)]


def test_jobs_are_listed_newest_first(tmp_path: Path, record: RunRecord, says: Says) -> None:
    late = submit(tmp_path / "far", "late-2")
    records.note_here(late)
    make_run(tmp_path / "runs", "never-submitted")
    code, out, _ = says("jobs")
    head, *rows = out.splitlines()
    assert (code, head.split()) == (0, ["id", "job", "state", "since", "attempt", "step", "nodes", "note"])
    assert {row.split()[0]: row.split()[2] for row in rows} == {"demo-1": "running", "late-2": "queued"}
    assert any("node-a, node-b" in row for row in rows)
    assert [job["id"] for job in says.data("jobs", "--state", "running")] == ["demo-1"]  # type: ignore[attr-defined, index]
    assert [job["id"] for job in says.data("jobs", "--storage", "far")] == ["late-2"]  # type: ignore[attr-defined, index]


def test_a_job_that_cannot_be_read_hides_no_other(tmp_path: Path, record: RunRecord, says: Says) -> None:
    records.note_here(submit(tmp_path / "far", "broken-2"))
    (tmp_path / "far/broken-2" / paths.RECORD).write_text("{half")
    code, out, err = says("jobs")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err.startswith("broken-2 is left out: The record of run broken-2 cannot be read: ")


def test_every_state_can_be_asked_for() -> None:
    assert tuple(state.value for state in State) == STATES


def test_no_jobs(says: Says) -> None:
    assert says("jobs") == (
        0,
        "Nothing was submitted on this machine yet. Submit a job with: orchestrator submit job=digits\n",
        "",
    )
    assert says.data("jobs") == []


def test_the_table_is_kept_up_to_date_until_one_leaves(record: RunRecord) -> None:
    watching = Follower("jobs", "--watch")
    lines_of(watching.process.stdout, 2)
    end(record, Status.finished)
    assert "finished" in lines_of(watching.process.stdout, 2)[1]
    code, _, err = watching.leave()
    assert (code, err.strip()) == (0, "Detached: the jobs go on without you.")


def test_all_about_a_job(record: RunRecord, says: Says) -> None:
    code, out, _ = says("jobs", "show", "demo")
    assert code == 0
    assert "state       running, since" in out
    assert "plan        digits, zero2, fp32, 2 workers" in out
    assert "where\n  rank 0    node-a\n  rank 1    node-b\n" in out
    assert "placed: rank 0 on node-a, rank 1 on node-b\n" in out
    assert "training 10 steps with 2 workers on cpu, 272 parameters\n" in out
    assert out.endswith("next\n  orchestrator logs demo-1 -f\n  orchestrator attach demo-1\n")
    data = says.data("jobs", "show", "demo-1")
    assert isinstance(data, dict)
    assert (data["state"], data["step"], data["nodes"]) == ("running", 7, {"0": "node-a", "1": "node-b"})
    assert [event["kind"] for event in data["events"]] == ["placed", "started"]
    assert data["plan"]["strategy"] == "zero2"
    assert data["submission"]["submissions"][0]["id"] == "demo-1-a1"


def test_a_job_that_failed_begins_with_the_cause(record: RunRecord, says: Says) -> None:
    fail(record, 1, "ValueError", "bad token", where=f"{record.project}/task.py:3", code="raise ValueError")
    end(record, Status.failed, "ValueError: bad token (worker 1, task.py:3)")
    _, out, _ = says("jobs", "show", "demo-1")
    assert out.splitlines()[:3] == [
        "failed",
        "  ValueError: bad token",
        "    worker 1 on node-b, at task.py:3, after step 7",
    ]
    data = says.data("jobs", "show", "demo-1")
    assert isinstance(data, dict)
    assert data["failure"]["where"] == "task.py:3"


def test_a_job_that_waits_is_shown_with_what_it_waits_for(tmp_path: Path, says: Says) -> None:
    record = make_run(tmp_path / "runs", "demo-1")
    begin(record)
    tell(record, events.WAITING, 1, message="no room.", hint="x", binding="CPU", until=["other"], changes=[])
    _, out, _ = says("jobs", "show", "demo-1")
    assert "waits for\n  binds: CPU\n  what would start it:\n    it starts by itself when other ends\n" in out
    assert out.endswith(
        "next\n  orchestrator why demo-1\n  orchestrator logs demo-1 -f\n  orchestrator attach demo-1\n"
    )
    assert says("why", "demo-1")[1].startswith("demo-1 waits for room: no room.\nbinds: CPU\n")


def test_logs_are_prefixed_and_free_of_noise(record: RunRecord, says: Says) -> None:
    assert says("logs", "demo-1") == (0, "rank 0 node-a | hello from 0\nrank 1 node-b | hello from 1\n", "")
    assert says("logs", "demo-1", "--rank", "1") == (0, "rank 1 node-b | hello from 1\n", "")
    assert says("logs", "demo-1", "--tail", "1") == (0, "rank 1 node-b | hello from 1\n", "")
    assert says("logs", "demo-1", "--grep", "0$") == (0, "rank 0 node-a | hello from 0\n", "")
    assert len(says("logs", "demo-1", "--all")[1].splitlines()) == 3
    _, out, _ = says("logs", "demo-1", "--json", "--rank", "0")
    assert json.loads(out) == {"time": 1_800_001_000.0, "rank": 0, "node": "node-a", "text": "hello from 0"}


def test_logs_of_a_job_that_printed_nothing_yet(tmp_path: Path, says: Says) -> None:
    records.note_here(submit(tmp_path / "runs", "late-2"))
    code, out, err = says("logs", "late-2")
    assert (code, out) == (0, "")
    assert err == "No worker has printed anything yet; late-2 is queued: the cluster local cannot be asked from here.\n"


def test_a_follower_of_logs_ends_with_the_run(record: RunRecord) -> None:
    follower = Follower("logs", "demo-1", "-f", "--rank", "1")
    assert lines_of(follower.process.stdout, 1) == ["rank 1 node-b | hello from 1"]
    say(record, 1, (1003, "something new\n"))
    assert lines_of(follower.process.stdout, 1) == ["rank 1 node-b | something new"]
    fail(record, 1, "ValueError", "bad token")
    say(record, 1, (1004, "last words\n"))
    end(record, Status.failed, "ValueError: bad token (worker 1, x)")
    code, out, err = follower.wait()
    assert (code, out) == (0, "rank 1 node-b | last words\n")
    assert err.splitlines()[:2] == ["ValueError: bad token", "  worker 1 on node-b, after step 7"]
    assert err.splitlines()[-1] == "demo-1 failed. More: orchestrator jobs show demo-1"


@pytest.mark.parametrize("words", [["logs", "demo-1", "-f"], ["attach", "demo-1"]])
def test_who_leaves_is_told_that_the_run_goes_on(record: RunRecord, words: list[str]) -> None:
    follower = Follower(*words)
    stream = follower.process.stdout if words[0] == "logs" else follower.process.stderr
    lines_of(stream, 2)
    code, _, err = follower.leave()
    assert code == 130
    assert err.endswith(f"\nDetached: demo-1 goes on without you. Look again: orchestrator {' '.join(words)}\n")
    assert not (Path(record.root) / paths.STOP_REQUEST).exists()


def test_a_watcher_sees_progress_and_ends_as_the_run_does(record: RunRecord) -> None:
    follower = Follower("attach", "demo-1")
    assert lines_of(follower.process.stderr, 3) == [
        "placed: rank 0 on node-a, rank 1 on node-b",
        "training 10 steps with 2 workers on cpu, 272 parameters",
        "step 7/10  loss 1  5 samples/s",
    ]
    tell(record, events.EVALUATED, 10, writer="rank-0", step=10, split="val", metrics={"val/loss": 0.5})
    assert lines_of(follower.process.stderr, 1) == ["step 10  val/loss 0.5"]
    end(record, Status.finished)
    code, out, _ = follower.wait()
    assert code == 0
    assert "run demo-1 finished" in out


@pytest.mark.parametrize(
    ("status", "exit_code", "ends"),
    [(Status.finished, None, 0), (Status.stopped, 130, 130), (Status.failed, None, 1), (Status.failed, 3, 3)],
)
def test_a_watcher_ends_with_the_runs_exit_code(
    record: RunRecord, says: Says, status: Status, exit_code: int | None, ends: int
) -> None:
    record.attempts[-1].exit_code = exit_code
    end(record, status, "the cause" if status is Status.failed else "")
    code, _, err = says("attach", "demo-1")
    assert code == ends
    assert ("the cause" in err) is (status is Status.failed)
    told = says("attach", "demo-1", "--json")
    assert (told[0], json.loads(told[1])["status"]) == (ends, status.value)


def test_a_watcher_of_a_job_long_under_way_is_told_the_end_of_what_happened(record: RunRecord, says: Says) -> None:
    for step in range(10, 200, 10):
        tell(record, events.EVALUATED, step, writer="rank-0", step=step, split="val", metrics={"val/loss": 1 / step})
    end(record, Status.stopped)
    _, _, err = says("attach", "demo-1")
    assert [line.split()[1] for line in err.splitlines() if "val/loss" in line] == ["150", "160", "170", "180", "190"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logs", "demo-2"], "There is no run 'demo-2'."),
        (["attach", "demo-2"], "There is no run 'demo-2'."),
        (["why", "demo-2"], "There is no run 'demo-2'."),
        (["jobs", "show", "demo-2"], "There is no run 'demo-2'."),
        (["logs", "demo-1", "--rank", "7"], "Run demo-1 has no worker of rank 7."),
        (["logs", "demo-1", "--since", "soon"], "--since 'soon' is no time."),
        (
            ["logs", "demo-1", "--grep", "["],
            "--grep '[' is no regular expression: unterminated character set at position 0.",
        ),
        (["jobs", "--watch", "--json"], "--watch shows a table, and --json is for programs: leave out one of the two."),
    ],
)
def test_bad_input_is_told_in_a_line_and_a_way_out(
    record: RunRecord, says: Says, words: Sequence[str], message: str
) -> None:
    code, out, err = says(*words)
    first, *rest = err.splitlines()
    assert (code, first, len(rest)) == (2, f"error: {message}", 1)
    if "demo-2" in words:
        assert "Nearest: demo-1." in rest[0]
    if "--json" not in words:
        code, out, _ = says(*words, "--json")
        assert (code, json.loads(out)["error"]["message"]) == (2, message)


def test_ids_are_completed_from_here_and_from_where_jobs_went(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch, says: Says
) -> None:
    records.note_here(submit(tmp_path / "far", "late-2"))
    for line, offered in (
        ("orchestrator logs ", ["last", "demo-1", "late-2"]),
        ("orchestrator why la", ["last", "late-2"]),
    ):
        monkeypatch.setenv("_ORCHESTRATOR_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_LINE", line)
        _, out, _ = says()
        assert out.split() == [f"plain,{word}" for word in offered]


def test_looking_takes_no_heavy_imports(record: RunRecord) -> None:
    began = time.monotonic()
    code = "import sys; from orchestrator.cli.main import main; main(sys.argv[1:]); print(*sorted({'ray','torch','mlflow','hydra'} & set(sys.modules)), file=sys.stderr)"
    for words in (["jobs"], ["jobs", "show", "demo-1"], ["logs", "demo-1"], ["why", "demo-1"]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr.strip()) == (0, "")
    assert time.monotonic() - began < 30
