"""What is kept of submitted runs, and how they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import StorageError, UnknownRunError
from orchestrator.records import jobs
from orchestrator.records.jobs import JobRecord, Submission


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def a_job(folder: Path, run_id: str = "digits-1", created: float = 1.0) -> JobRecord:
    return JobRecord(id=run_id, job="digits", root=f"{folder}/{run_id}", created=created, plan_digest="p", package="q")


def keep(job: JobRecord) -> JobRecord:
    jobs.note_here(job)
    job.save()
    return job


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    handed_in = Submission(attempt=1, id="digits-1-a1", time=2.0, host="h1", cluster="local")
    job = JobRecord(
        id="digits-1", job="digits", root=f"{tmp_path}/digits-1", created=1.0, plan_digest="p", submissions=(handed_in,),
        asked=("job=digits",),
    )  # fmt: skip
    job.save()
    assert jobs.load(job.root) == job
    assert job.latest == handed_in
    assert job.run is None


def test_found_by_id_beginning_and_last(tmp_path: Path) -> None:
    older, newer = keep(a_job(tmp_path, "digits-1", 1.0)), keep(a_job(tmp_path, "digits-12", 2.0))
    other = keep(a_job(tmp_path, "text-1", 0.5))
    assert jobs.find("digits-1") == older
    assert jobs.find("te") == other
    assert jobs.find("last") == newer
    assert [job.id for job in jobs.jobs()] == ["text-1", "digits-1", "digits-12"]
    with pytest.raises(UnknownRunError, match="ambiguous: digits-1, digits-12"):
        jobs.find("digits")


def test_found_in_storage_without_an_index(tmp_path: Path, home: Path) -> None:
    job = a_job(tmp_path / "runs")
    job.save()
    (tmp_path / "runs" / paths.PACKAGES).mkdir()
    with pytest.raises(UnknownRunError, match="There is no job 'digits-1'"):
        jobs.find("digits-1")
    assert jobs.find("dig", str(tmp_path / "runs")) == job
    assert job.storage_flag == f" --storage {tmp_path / 'runs'}"
    jobs.note_here(job)
    assert job.storage_flag == ""


def test_unknown_names_the_nearest(tmp_path: Path) -> None:
    keep(a_job(tmp_path))
    with pytest.raises(UnknownRunError) as caught:
        jobs.find("digitz-1")
    assert "digits-1" in caught.value.hint


def test_a_job_whose_folder_is_gone_is_named(tmp_path: Path) -> None:
    jobs.note_here(a_job(tmp_path))
    with pytest.raises(UnknownRunError, match=f"is not in {tmp_path}/digits-1 any more"):
        jobs.find("digits-1")
    assert jobs.jobs() == []


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    job = keep(a_job(tmp_path))
    Path(job.root, paths.JOB).write_text("{")
    with pytest.raises(StorageError, match=paths.JOB):
        jobs.find("digits-1")
