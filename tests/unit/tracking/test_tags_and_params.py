"""What is said of a run in MLflow's tags and parameters."""

from __future__ import annotations

import subprocess

import pytest

from orchestrator.tracking import params, tags


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    git("remote", "add", "origin", "https://me:secret@example.org/repo.git")
    return tmp_path


def test_git_tags(repository):
    found = tags.git(repository)
    assert len(found["mlflow.source.git.commit"]) == 40
    assert found["mlflow.source.git.branch"] == "main"
    assert found["orchestrator.git_dirty"] == "false"
    (repository / "code.py").write_text("x = 2\n")
    assert tags.git(repository)["orchestrator.git_dirty"] == "true"


def test_the_remote_is_told_without_its_password(repository):
    assert tags.git(repository)["mlflow.source.git.repoURL"] == "https://example.org/repo.git"


def test_no_repository_no_git_tags(tmp_path):
    assert tags.git(tmp_path) == {}


def test_no_git_no_git_tags(repository, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert tags.git(repository) == {}


def test_flatten():
    spec = {"job": {"seed": 1, "clip": None, "every": {"epochs": 1}}, "tags": {}, "batch": 64, "betas": [0.9, 0.99]}
    assert params.flatten({**spec, "tf32": True}) == {
        "job.seed": "1",
        "job.clip": "null",
        "job.every.epochs": "1",
        "batch": "64",
        "betas": "[0.9, 0.99]",
        "tf32": "true",
    }


def test_mlflows_limits_are_kept():
    assert params.for_mlflow({"a": "x" * 7000}) == {"a": "x" * 6000}
    assert params.name_for_mlflow("loss@5%") == "loss_5_"
    assert params.name_for_mlflow("/val//loss") == "val/loss"
    assert len(params.name_for_mlflow("n" * 300)) == 250
