"""A submitted run on the head, up to the driver; and its project in a worker."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import paths
from orchestrator.config.schema import Environment, Storage, Tracking
from orchestrator.data import ray_build
from orchestrator.errors import MachineError, StaleAttemptError, StorageError, UnknownRunError
from orchestrator.plans.types import Plan
from orchestrator.project import unpack
from orchestrator.project.pack import MIB, Package, pack
from orchestrator.records.jobs import JobRecord
from orchestrator.records.runs import RunRecord, Status
from orchestrator.runtime.driver import driver
from orchestrator.runtime.worker import boot
from orchestrator.runtime.worker.context import Launch
from orchestrator.submission import enqueue, head
from tests.unit.plans.plan_specs import plan, spec


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MODE", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def packed(tmp_path: Path) -> Package:
    project = tmp_path / "project"
    project.mkdir()
    (project / "mine.py").write_text(
        "class Doubles:\n    def preparer(self, facts):\n        return lambda record: 2 * record\n"
    )
    return pack(project, MIB)


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    asked = spec(
        storage=Storage(path="runs"),
        tracking=Tracking(enabled=False, tags={"team": "a"}),
        environment=Environment(variables={"MODE": "fast"}),
    )
    return plan(asked)


@pytest.fixture
def made(tmp_path: Path, planned: Plan, packed: Package) -> JobRecord:
    """A job as it lies in storage, and a desk that it went over."""
    made = enqueue.draft(planned, "demo-1", f"{tmp_path}/runs/demo-1", packed, ())
    packed.store(made.storage)
    made.store.write(paths.PLAN, planned.to_json())
    made.save()
    return made


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def carry_out(record: RunRecord, plan: Plan, asked: Any, view: object, **options: Any) -> RunRecord:
        calls.append({"record": record, "plan": plan, "spec": asked, "cwd": Path.cwd(), **options})
        return record

    monkeypatch.setattr(driver, "carry_out", carry_out)
    return calls


VIEW = SimpleNamespace(say=print, event=print)


def test_the_driver_gets_the_run_in_its_project(
    made: JobRecord, planned: Plan, driven: list[dict[str, Any]], tmp_path: Path
) -> None:
    head.carry_out(made.root, 1, VIEW)
    (call,) = driven
    folder = tmp_path / "cache/projects" / made.package
    assert (call["cwd"], call["record"].project) == (folder, str(folder))
    assert call["package"] == paths.package(made.storage, made.package)
    assert call["plan"].digest == made.plan_digest
    assert call["spec"].storage.path == str(tmp_path / "runs"), "not in the folder that the driver runs in"
    assert call["spec"].tracking.tags == {"team": "a"}
    assert os.environ["MODE"] == "fast"
    assert (made.run is not None, made.run and made.run.id) == (True, "demo-1")


def test_an_attempt_is_made_once(made: JobRecord, driven: list[dict[str, Any]]) -> None:
    run = head.begin(made)
    head._note_failure(run, 1, MachineError("x"))
    with pytest.raises(StaleAttemptError, match="Attempt 1 of run demo-1 has been made already"):
        head.carry_out(made.root, 1, VIEW)
    head.carry_out(made.root, 2, VIEW)
    assert len(driven) == 1


def test_what_keeps_it_from_beginning_is_its_first_failure(made: JobRecord, driven: list[dict[str, Any]]) -> None:
    made.store.child("..").remove(f"{paths.PACKAGES}/{made.package}.zip")
    with pytest.raises(StorageError):
        head.carry_out(made.root, 1, VIEW)
    run = made.run
    assert run
    assert (run.status, driven) == (Status.failed, [])
    (attempt,) = run.attempts
    assert attempt.error.startswith("The project is not at")
    assert (attempt.status, attempt.exit_code, attempt.ended is not None) == (Status.failed, 3, True)


def test_no_job_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownRunError):
        head.carry_out(str(tmp_path / "nothing"), 1, VIEW)


def test_outside_of_a_cluster_the_entry_point_says_so(made: JobRecord, tmp_path: Path) -> None:
    env = {**os.environ, "ORCHESTRATOR_HOME": str(tmp_path / "home"), "ORCHESTRATOR_CLUSTER": "gone"}
    words = [sys.executable, "-P", "-m", enqueue.ENTRY, made.root, "1"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (3, "")
    assert "is not up any more" in Path(made.root, paths.DRIVER_LOG).read_text()


def test_a_worker_takes_the_project_before_the_persons_code(made: JobRecord, tmp_path: Path) -> None:
    package = paths.package(made.storage, made.package)
    context = SimpleNamespace(
        launch=Launch(
            run_id="demo-1", attempt=1, root=made.root, project="/elsewhere", world_size=1,
            plan={"spec": {"environment": {"variables": {"MODE": "slow"}}}}, package=package,
        )
    )  # fmt: skip
    boot._take_project(context)  # type: ignore[arg-type]
    folder = tmp_path / "cache/projects" / made.package
    assert (Path.cwd(), context.launch.project, sys.path[0]) == (folder, str(folder), str(folder))
    assert os.environ["MODE"] == "slow"


def test_other_nodes_prepare_data_with_the_project_as_it_was_sent(
    made: JobRecord, packed: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(0, str(packed.project))
    import mine  # type: ignore[import-not-found]

    code = pickle.dumps((mine.Doubles(), {}))
    sys.path.remove(str(packed.project))
    monkeypatch.delitem(sys.modules, "mine")
    prepare = ray_build._preparer(code, paths.package(made.storage, made.package))
    assert prepare(21) == 42
    assert unpack.cache() in Path(sys.modules["mine"].__file__ or "").parents
