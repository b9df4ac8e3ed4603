"""Where a job stands, told from what lies in run storage and, where that cannot know, from Ray's word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import UnknownRunError
from orchestrator.records import events
from orchestrator.records import finder as subjects
from orchestrator.records import jobs as records
from orchestrator.records.finder import Subject
from orchestrator.records.runs import RunRecord, Status
from orchestrator.records.status import RayWord, Standing, State, stand
from tests.unit.records.stories import START, begin, end, make_run, seen, submit, tell


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def look(record: RunRecord, word: RayWord | None = None) -> Standing:
    return stand(seen(record), lambda _: word)


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    record = make_run(tmp_path)
    begin(record)
    return record


class TestBeforeThereIsADriver:
    def standing(self, tmp_path: Path, word: RayWord | None) -> Standing:
        job = submit(tmp_path)
        return stand(Subject(job.id, job.root), lambda _: word)

    def test_ray_starts_it(self, tmp_path: Path) -> None:
        now = self.standing(tmp_path, RayWord(status="PENDING"))
        assert (now.state, now.since, now.note) == (State.queued, START, "Ray is starting its driver")

    def test_its_driver_has_not_come_to_an_attempt(self, tmp_path: Path) -> None:
        make_run(tmp_path)
        now = self.standing(tmp_path, RayWord(status="RUNNING"))
        assert (now.state, now.note) == (State.queued, "its driver makes the project ready")

    def test_ray_does_not_know_it(self, tmp_path: Path) -> None:
        now = self.standing(tmp_path, RayWord())
        assert (now.state, now.note) == (State.queued, "Ray does not know of it; the same submit again completes it")

    def test_nobody_can_be_asked(self, tmp_path: Path) -> None:
        now = self.standing(tmp_path, None)
        assert (now.state, now.note) == (State.queued, "the cluster local cannot be asked from here")

    @pytest.mark.parametrize(("status", "state"), [("FAILED", State.failed), ("STOPPED", State.stopped)])
    def test_it_ended_before_it_began(self, tmp_path: Path, status: str, state: State) -> None:
        now = self.standing(tmp_path, RayWord(status=status, message="No module named x"))
        assert (now.state, now.note) == (state, "No module named x")
        assert now.is_over

    def test_it_was_handed_in_again(self, tmp_path: Path) -> None:
        record = make_run(tmp_path)
        begin(record)
        end(record, Status.stopped)
        submit(tmp_path, attempt=2)
        now = look(record, RayWord(status="RUNNING"))
        assert (now.state, now.attempt) == (State.queued, 2)


class TestWhileItsDriverLives:
    def test_starting(self, record: RunRecord) -> None:
        assert look(record).state is State.starting
        tell(record, events.PLACED, 3, nodes={"0": "node-a", "1": "node-b"})
        now = look(record)
        assert (now.state, now.nodes) == (State.starting, {0: "node-a", 1: "node-b"})

    def test_waiting_since_it_began_to_wait(self, record: RunRecord) -> None:
        tell(record, events.WAITING, 5, message="no room", hint="")
        tell(record, events.WAITING, 9, message="still no room", hint="")
        now = look(record)
        assert (now.state, now.note, now.since) == (State.waiting, "still no room", START + 1005)

    def test_running(self, record: RunRecord) -> None:
        tell(record, events.WAITING, 5, message="no room", hint="")
        tell(record, events.PLACED, 8, nodes={"0": "node-a"})
        tell(record, events.STARTED, 9, writer="rank-0", step=0, world_size=1, total_steps=10)
        tell(record, events.METRICS, 9, writer="rank-0", step=7, metrics={"train/loss": 1.0})
        now = look(record)
        assert (now.state, now.step, now.nodes, now.since) == (State.running, 7, {0: "node-a"}, START + 1008)

    def test_an_earlier_attempt_says_nothing_of_this_one(self, record: RunRecord) -> None:
        tell(record, events.PLACED, 8, nodes={"0": "node-a"})
        tell(record, events.METRICS, 9, writer="rank-0", step=7, metrics={"train/loss": 1.0})
        begin(record, 2)
        now = look(record)
        assert (now.state, now.step, now.nodes, now.attempt) == (State.starting, None, {}, 2)

    def test_asked_to_stop(self, record: RunRecord) -> None:
        record.store.write(paths.STOP_REQUEST, json.dumps({"now": False, "grace_s": 60, "time": START + 1030}))
        now = look(record)
        assert (now.state, now.since) == (State.stopping, START + 1030)

    def test_rays_word_does_not_count_while_it_goes_on(self, tmp_path: Path, record: RunRecord) -> None:
        submit(tmp_path)
        assert look(record, RayWord(status="RUNNING")).state is State.starting
        assert look(record, None).state is State.starting


class TestLost:
    def test_its_driver_is_gone(self, tmp_path: Path) -> None:
        record = make_run(tmp_path)
        begin(record, pid=gone())
        tell(record, events.METRICS, 30, writer="rank-0", step=7, metrics={"train/loss": 1.0})
        now = look(record)
        assert (now.state, now.since, now.step) == (State.lost, START + 1030, 7)
        assert now.note.startswith("its driver, process ")

    @pytest.mark.parametrize("word", [RayWord(status="FAILED", message="killed"), RayWord()])
    def test_ray_says_so_of_a_driver_on_another_machine(self, tmp_path: Path, word: RayWord) -> None:
        record = make_run(tmp_path)
        begin(record, host="elsewhere")
        submit(tmp_path)
        assert look(record, word).state is State.lost
        assert look(record, None).state is State.starting, "nobody knows, so it is taken to live"
        assert look(record, RayWord(status="RUNNING")).state is State.starting


@pytest.mark.parametrize("status", [Status.finished, Status.failed, Status.stopped])
def test_over(record: RunRecord, status: Status) -> None:
    end(record, status, "cause\nhint")
    now = look(record, RayWord(status="RUNNING"))
    assert (now.state.value, now.since, now.note) == (status.value, START + 1060, "cause")
    assert now.is_over


def test_data_for_programs(record: RunRecord) -> None:
    tell(record, events.PLACED, 3, nodes={"0": "node-a"})
    told = {
        "state": "starting",
        "since": START + 1003,
        "note": "",
        "attempt": 1,
        "step": None,
        "nodes": {"0": "node-a"},
    }
    assert look(record).to_dict() == told


class TestFinding:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
        for number, run in enumerate(("alpha-1", "beta-2", "beta-3")):
            make_run(tmp_path / "runs", run, created=START + number)

    def test_by_id_by_a_beginning_and_the_newest(self, tmp_path: Path) -> None:
        assert subjects.find("beta-2").id == "beta-2"
        assert subjects.find("alp").root == str(tmp_path / "runs/alpha-1")
        assert subjects.find("last").id == "beta-3"
        assert subjects.find("alp").storage_flag == ""

    def test_a_job_that_was_submitted_to_another_place(self, tmp_path: Path) -> None:
        job = submit(tmp_path / "far", "gamma-4")
        records.note_here(job)
        found = subjects.find("gam")
        assert (found.root, found.run, found.storage_flag) == (job.root, None, "")
        with pytest.raises(UnknownRunError, match=r"There is no run 'gamma-4' in .*runs\. Nearest: "):
            subjects.find("gamma-4", str(tmp_path / "runs"))

    def test_what_is_in_no_known_place_needs_the_flag(self, tmp_path: Path) -> None:
        make_run(tmp_path / "far", "delta-5")
        found = subjects.find("delta-5", str(tmp_path / "far"))
        assert found.storage_flag == f" --storage {tmp_path}/far"

    def test_unknown_ids_are_answered_by_the_nearest(self) -> None:
        with pytest.raises(UnknownRunError, match=r"There is no run 'alpha-2'. Nearest: alpha-1"):
            subjects.find("alpha-2")
        with pytest.raises(UnknownRunError, match=r"Run id 'beta' is ambiguous: beta-2, beta-3. Give more of it."):
            subjects.find("beta")

    def test_where_there_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownRunError, match="There are no runs there"):
            subjects.find("x", str(tmp_path / "empty"))
        with pytest.raises(UnknownRunError, match="There are no runs there"):
            subjects.find("last", str(tmp_path / "empty"))

    def test_a_job_whose_folder_was_removed(self, tmp_path: Path) -> None:
        job = submit(tmp_path / "far", "gamma-4")
        records.note_here(job)
        Path(f"{job.root}/{paths.JOB}").unlink()
        with pytest.raises(UnknownRunError, match=r"Run gamma-4 is not in .* any more"):
            subjects.find("gamma-4")


def test_this_process_lives() -> None:
    """What `begin` counts on."""
    assert os.getpid() != gone()
