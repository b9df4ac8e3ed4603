"""Handing jobs in: once, whatever dies and whoever asks; the cluster is played, run storage is real."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.cluster.node.home import Record
from orchestrator.config.schema import Storage
from orchestrator.errors import ConfigError, MachineError, PlanError
from orchestrator.plans.types import Plan
from orchestrator.project.pack import MIB, Package, pack
from orchestrator.records import jobs
from orchestrator.records.jobs import JobRecord
from orchestrator.records.runs import Attempt, RunRecord, Status
from orchestrator.records.stop_request import StopRequest
from orchestrator.submission import enqueue
from orchestrator.submission.enqueue import Handed
from orchestrator.submission.ray_jobs import Told
from tests.unit.plans.plan_specs import plan, spec

CLUSTER = Record(name="local", role="head", address="127.0.0.1", ray="127.0.0.1:6379", dashboard="http://127.0.0.1:1")


class Ray:
    """A head: takes each id once, and forgets all when it is started anew."""

    def __init__(self) -> None:
        self.jobs: dict[str, Told] = {}
        self.started: list[str] = []
        self.down = False

    def submit(self, submission_id: str, entrypoint: str, metadata: Mapping[str, str]) -> bool:
        if self.down:
            raise MachineError("down")
        if submission_id in self.jobs:
            return False
        self.jobs[submission_id] = Told(status="PENDING", metadata=dict(metadata))
        self.started.append(entrypoint)
        return True

    def get(self, submission_id: str) -> Told | None:
        return self.jobs.get(submission_id)

    def ends(self, submission_id: str) -> None:
        self.jobs[submission_id] = dataclasses.replace(self.jobs[submission_id], status="FAILED")


@pytest.fixture(autouse=True)
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ray:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    ray = Ray()
    monkeypatch.setattr(enqueue, "RayJobs", lambda cluster: ray)
    return ray


@pytest.fixture
def packed(tmp_path: Path) -> Package:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/task.py").write_text("x = 1\n")
    return pack(tmp_path / "project", MIB)


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    return plan(spec(storage=Storage(path=str(tmp_path / "runs"))))


@pytest.fixture
def job(tmp_path: Path, planned: Plan, packed: Package) -> JobRecord:
    return enqueue.draft(planned, "demo-1", f"{tmp_path}/runs/demo-1", packed, ("job=demo",))


@pytest.fixture
def submit(job: JobRecord, planned: Plan, packed: Package) -> Callable[..., Handed]:
    return lambda reached=lambda _: None, job=job: enqueue.hand_in(job, planned, packed.store, CLUSTER, reached)


def begins(job: JobRecord, attempts: int = 1, status: Status = Status.running) -> RunRecord:
    """The run's own record, as its driver writes it."""
    made = [
        Attempt(
            number=n + 1,
            started=1.0,
            world_size=1,
            host="elsewhere",
            pid=1,
            ended=None if status is Status.running else 2.0,
        )
        for n in range(attempts)
    ]
    run = RunRecord(
        id=job.id, job="demo", created=1.0, status=status, root=job.root, project="", plan_digest="p", attempts=made
    )
    run.save()
    return run


def test_what_lies_in_storage_before_ray_is_asked(submit: Callable[..., Handed], ray: Ray, job: JobRecord) -> None:
    handed = submit()
    assert (handed.new, [each.id for each in handed.job.submissions]) == (True, ["demo-1-a1"])
    assert jobs.load(job.root) == handed.job
    assert handed.job.plan.digest == job.plan_digest
    assert Path(job.root, paths.CONFIG).is_file()
    assert Path(paths.package(job.storage, job.package)).is_file()
    told = ray.jobs["demo-1-a1"].metadata
    assert (told["plan"], told["package"], told["root"]) == (job.plan_digest, job.package, job.root)
    assert ray.started[0].endswith(f"-m orchestrator.cli.job_entry {job.root} 1")
    assert "ORCHESTRATOR_CLUSTER=local" in ray.started[0]


def steps_of(submit: Callable[..., Handed]) -> list[str]:
    steps: list[str] = []
    submit(steps.append)
    return steps


STEPS = ("locked", "index", "package", "plan", "config", "job", "submission", "submitted")


def test_the_steps_are_these(submit: Callable[..., Handed]) -> None:
    assert tuple(steps_of(submit)) == STEPS


@pytest.mark.parametrize("last", STEPS)
def test_a_client_that_dies_after_a_step_is_completed_once(submit: Callable[..., Handed], ray: Ray, last: str) -> None:
    def dies(step: str) -> None:
        if step == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(dies)
    handed = submit()
    assert handed.new == (last != "submitted")
    assert (list(ray.jobs), len(ray.started)) == (["demo-1-a1"], 1)
    assert len(handed.job.submissions) == 1
    again = submit()
    assert (again.new, again.job) == (False, handed.job)
    assert len(ray.started) == 1


def test_many_at_once_start_one(submit: Callable[..., Handed], ray: Ray) -> None:
    handed: list[Handed] = []
    threads = [threading.Thread(target=lambda: handed.append(submit())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(handed), sum(each.new for each in handed), len(ray.started)) == (20, 1, 1)
    assert len({each.job.latest for each in handed}) == 1


def test_a_cluster_that_forgot_it_starts_it_only_if_it_never_began(
    submit: Callable[..., Handed], ray: Ray, job: JobRecord
) -> None:
    submit()
    ray.jobs.clear()
    assert submit().new
    begins(job)
    ray.jobs.clear()
    assert not submit().new
    assert len(ray.started) == 2


def test_an_id_stands_for_one_plan_and_one_project(
    submit: Callable[..., Handed], job: JobRecord, tmp_path: Path, ray: Ray
) -> None:
    submit()
    other = dataclasses.replace(job, asked=("job=other",))
    assert not submit(job=other).new, "other words for the same are the same"
    with pytest.raises(ConfigError, match="demo-1 is in use for another plan"):
        submit(job=dataclasses.replace(other, plan_digest="another"))
    with pytest.raises(ConfigError, match="in use for the same plan of another state of the project"):
        submit(job=dataclasses.replace(other, package="another"))
    with pytest.raises(ConfigError, match=f"demo-1 is in use: the job lies in {job.root}"):
        submit(job=dataclasses.replace(job, root=f"{tmp_path}/elsewhere/demo-1"))
    assert len(ray.started) == 1


def test_a_run_that_was_trained_here_keeps_its_id(submit: Callable[..., Handed], job: JobRecord) -> None:
    begins(job)
    with pytest.raises(ConfigError, match=r"demo-1 exists already .* was not submitted"):
        submit()


def test_ray_has_one_of_this_id_from_elsewhere(submit: Callable[..., Handed], ray: Ray) -> None:
    ray.jobs["demo-1-a1"] = Told(status="RUNNING", metadata={"plan": "another"})
    with pytest.raises(ConfigError, match="The cluster has a job demo-1-a1 of another plan"):
        submit()


def test_a_request_that_was_made_is_known_without_a_plan(submit: Callable[..., Handed], job: JobRecord) -> None:
    assert enqueue.known(job.id, job.root, job.asked, job.package) is None
    handed = submit()
    assert enqueue.known(job.id, job.root, job.asked, job.package) == handed.job
    assert enqueue.known(job.id, job.root, ("job=other",), job.package) is None
    assert enqueue.known(job.id, job.root, job.asked, "another") is None


class TestAgain:
    def test_a_failed_run_is_handed_in_as_the_next_attempt(
        self, submit: Callable[..., Handed], ray: Ray, job: JobRecord
    ) -> None:
        job = submit().job
        begins(job, 2, Status.failed)
        ray.ends("demo-1-a1")
        StopRequest().write(job.store)
        handed = enqueue.hand_in_again(job, CLUSTER)
        assert (handed.new, [each.id for each in handed.job.submissions]) == (True, ["demo-1-a1", "demo-1-a3"])
        assert not job.store.exists(paths.STOP_REQUEST)
        assert ray.started[1].endswith(" 3")
        again = enqueue.hand_in_again(job, CLUSTER)
        assert (again.new, again.job, len(ray.started)) == (False, handed.job, 2)

    @pytest.mark.parametrize("last", ["request removed", "submission", "submitted"])
    def test_a_client_that_dies_is_completed_once(
        self, submit: Callable[..., Handed], ray: Ray, job: JobRecord, last: str
    ) -> None:
        job = submit().job
        begins(job, 1, Status.stopped)
        ray.ends("demo-1-a1")

        def dies(step: str) -> None:
            if step == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            enqueue.hand_in_again(job, CLUSTER, dies)
        enqueue.hand_in_again(job, CLUSTER)
        assert sorted(ray.jobs) == ["demo-1-a1", "demo-1-a2"]
        assert len(ray.started) == 2

    def test_one_whose_driver_never_began_gets_a_new_number(self, submit: Callable[..., Handed], ray: Ray) -> None:
        job = submit().job
        ray.ends("demo-1-a1")
        assert enqueue.hand_in_again(job, CLUSTER).job.latest.id == "demo-1-a2"  # type: ignore[union-attr]

    def test_one_that_goes_on_is_left_alone(self, submit: Callable[..., Handed], ray: Ray) -> None:
        job = submit().job
        begins(job)
        with pytest.raises(PlanError, match="demo-1 goes on: there is nothing to resume"):
            enqueue.hand_in_again(job, CLUSTER)

    def test_one_that_has_finished_is_over(self, submit: Callable[..., Handed], ray: Ray) -> None:
        job = submit().job
        begins(job, 1, Status.finished)
        with pytest.raises(ConfigError, match="demo-1 has finished") as caught:
            enqueue.hand_in_again(job, CLUSTER)
        assert "orchestrator rerun demo-1" in caught.value.hint


def test_no_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(MachineError, match="No cluster is up on this machine"):
        enqueue.cluster_here()


def test_storage_that_cannot_be_written_is_named(submit: Callable[..., Handed], job: JobRecord, ray: Ray) -> None:
    Path(job.storage).write_text("a file where a folder should be")
    with pytest.raises(MachineError, match="Not a directory"):
        submit()
    assert ray.started == []


def test_a_driver_that_has_told_its_end_may_leave_first(
    submit: Callable[..., Handed], ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit().job
    begins(job, 1, Status.stopped)
    monkeypatch.setattr(enqueue.time, "sleep", lambda seconds: ray.ends("demo-1-a1"))
    assert [each.id for each in enqueue.hand_in_again(job, CLUSTER).job.submissions] == ["demo-1-a1", "demo-1-a2"]
