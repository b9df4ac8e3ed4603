"""The Python API: what there is, that it costs nothing until it is used, and what a handle says."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
import orchestrator.records.jobs as records
from orchestrator import api
from orchestrator.errors import MachineError, RunFailedError, RunStoppedError, UnknownRunError
from orchestrator.records.jobs import JobRecord
from orchestrator.records.runs import Attempt, RunRecord, Status


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)


def test_this_is_the_api() -> None:
    assert orchestrator.__all__ == [
        "Job", "Measured", "OrchestratorError", "Result", "Task", "__version__", "checkpoint", "job", "report", "runs", "submit",
    ]  # fmt: skip
    assert sorted(name for name in dir(orchestrator.Job) if not name.startswith("_")) == [
        "folder", "id", "logs", "rerun", "result", "resume", "state", "stop", "wait", "why",
    ]  # fmt: skip
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = orchestrator.nothing  # type: ignore[attr-defined]


def test_every_public_thing_is_typed_and_described() -> None:
    functions = [api.submit, api.job, api.runs, *vars(api.Job).values()]
    for function in functions:
        if inspect.isfunction(function) and not function.__name__.startswith("_"):
            signature = inspect.signature(function)
            assert signature.return_annotation is not inspect.Signature.empty, function
            assert function.__doc__, function


def test_import_is_quick_and_submit_stays_callable() -> None:
    code = (
        "import sys, orchestrator, orchestrator.records.jobs\n"
        "assert callable(orchestrator.submit) and orchestrator.records.jobs\n"
        "print(*{'ray', 'torch', 'mlflow', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_submit_without_a_cluster_says_what_to_do() -> None:
    before = dict(os.environ)
    with pytest.raises(MachineError, match="No cluster is up on this machine") as caught:
        orchestrator.submit("job=digits")
    assert "orchestrator up" in caught.value.hint
    assert dict(os.environ) == before


def a_job(folder: Path, status: Status | None, run_id: str = "digits-1", error: str = "") -> JobRecord:
    made = JobRecord(id=run_id, job="digits", root=f"{folder}/runs/{run_id}", created=1.0, plan_digest="p")
    records.note_here(made)
    made.save()
    if status:
        attempt = Attempt(number=1, started=1.0, ended=2.0, world_size=1, host="h", pid=1, status=status, error=error)
        RunRecord(
            id=run_id, job="digits", created=1.0, status=status, root=made.root, project="", plan_digest="p", step=7,
            attempts=[attempt], final_metrics={"val/loss": 0.5}, best_checkpoint="step-7", mlflow_run_id="m",
        ).save()  # fmt: skip
    return made


def test_a_finished_job(tmp_path: Path) -> None:
    made = a_job(tmp_path, Status.finished)
    found = orchestrator.job("dig")
    assert (found.id, found.folder, found.state) == ("digits-1", made.root, "finished")
    assert (
        found.result()
        == found.wait()
        == orchestrator.Result(
            state="finished",
            step=7,
            metrics={"val/loss": 0.5},
            checkpoint="step-7",
            folder=made.root,
            mlflow_run_id="m",
        )
    )
    assert [each.id for each in orchestrator.runs(submitted=True)] == ["digits-1"]
    assert repr(found) == f"Job('digits-1', folder={made.root!r})"


def test_a_failed_job_raises_its_cause(tmp_path: Path) -> None:
    a_job(tmp_path, Status.failed, error="ValueError: token 17\nLook there.")
    found = orchestrator.job("digits-1")
    assert found.wait().error.startswith("ValueError: token 17")
    with pytest.raises(RunFailedError, match="ValueError: token 17"):
        found.result()


def test_a_stopped_job_raises_too(tmp_path: Path) -> None:
    a_job(tmp_path, Status.stopped)
    with pytest.raises(RunStoppedError, match="digits-1 was stopped"):
        orchestrator.job("digits-1").result()


def test_a_job_that_is_not_over_times_out_and_goes_on(tmp_path: Path) -> None:
    a_job(tmp_path, None)
    found = orchestrator.job("digits-1")
    assert found.state == "queued"
    with pytest.raises(TimeoutError, match="digits-1 is queued"):
        found.wait(0.0)


def test_logs_are_read_from_storage(tmp_path: Path) -> None:
    made = a_job(tmp_path, Status.finished)
    logs = Path(made.root, "logs")
    logs.mkdir()
    (logs / "rank-0.log").write_text("hello\n")
    (logs / "rank-1.log").write_text("world\n")
    assert list(orchestrator.job("digits-1").logs()) == ["rank 0 | hello", "rank 1 | world"]
    assert list(orchestrator.job("digits-1").logs(follow=True, ranks=[1])) == ["rank 1 | world"]


def test_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownRunError, match="There is no run 'nothing'"):
        orchestrator.job("nothing")
