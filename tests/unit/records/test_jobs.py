"""What is kept of submitted runs, and how they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import StorageError, UnknownRunError
from orchestrator.records import finder, jobs
from orchestrator.records.jobs import JobRecord, Submission


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
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
    assert finder.find("digits-1").job == older
    assert finder.find("te").job == other
    assert finder.find("last").job == newer
    assert [job.id for job in jobs.jobs()] == ["text-1", "digits-1", "digits-12"]
    with pytest.raises(UnknownRunError, match="ambiguous: digits-1, digits-12"):
        finder.find("digits")


def test_found_in_storage_without_an_index(tmp_path: Path, home: Path) -> None:
    job = a_job(tmp_path / "far")
    job.save()
    (tmp_path / "far" / paths.PACKAGES).mkdir()
    with pytest.raises(UnknownRunError, match="There is no run 'digits-1'"):
        finder.find("digits-1")
    assert finder.find("dig", str(tmp_path / "far")).job == job
    assert job.storage_flag == f" --storage {tmp_path / 'far'}"
    jobs.note_here(job)
    assert job.storage_flag == ""


def test_unknown_names_the_nearest(tmp_path: Path) -> None:
    keep(a_job(tmp_path))
    with pytest.raises(UnknownRunError) as caught:
        finder.find("digitz-1")
    assert "digits-1" in caught.value.hint


def test_a_job_whose_folder_is_gone_is_named(tmp_path: Path) -> None:
    jobs.note_here(a_job(tmp_path))
    with pytest.raises(UnknownRunError, match=f"is not in {tmp_path}/digits-1 any more"):
        finder.find("digits-1")
    assert jobs.jobs() == []


def test_a_damaged_record_is_named_and_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged, whole = keep(a_job(tmp_path)), keep(a_job(tmp_path, "text-1"))
    Path(damaged.root, paths.JOB).write_text("{")
    with pytest.raises(StorageError, match=f"The record of job digits-1 cannot be read: .* Look at .*/{paths.JOB}"):
        finder.find("digits-1")
    assert jobs.jobs() == [whole]
    assert caplog.text.count("The record of job digits-1 cannot be read") == 1
