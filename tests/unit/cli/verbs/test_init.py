"""`orchestrator init`: what it writes, what it refuses, and that what it writes works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.errors import ConfigError
from orchestrator.project.scaffold import build

FILES = {
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "conf/data/moons.yaml",
    "conf/job/moons.yaml",
    "conf/model/moons.yaml",
    "moons/__init__.py",
    "moons/task.py",
    "tests/test_task.py",
}


def files(folder: Path) -> set[str]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_writes_the_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "moons")]) == 0
    assert files(tmp_path / "moons") == FILES
    assert not any(build.PLACEHOLDER in (tmp_path / "moons" / name).read_text() for name in FILES)
    out = capsys.readouterr().out
    assert "orchestrator train job=moons" in out
    assert "python -m pytest" in out
    assert [entry.name for entry in tmp_path.iterdir()] == ["moons"], "something was left beside the project"


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "x"), "--name", "moons", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["package"] == "moons"
    assert set(answer["files"]) == FILES


def test_the_project_is_in_order_by_our_own_rules(tmp_path: Path) -> None:
    main(["init", str(tmp_path / "moons")])
    for command in (["check"], ["format", "--check", "--line-length", "120"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_refuses_a_folder_with_something_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "moons").mkdir()
    (tmp_path / "moons/notes.txt").write_text("mine")
    assert main(["init", str(tmp_path / "moons")]) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert files(tmp_path / "moons") == {"notes.txt"}


def test_an_empty_or_just_cloned_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moons/.git").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "moons")
    assert main(["init", "."]) == 0
    assert files(Path.cwd()) == FILES


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "moons").write_text("")
    assert main(["init", str(tmp_path / "moons")]) == 2


@pytest.mark.parametrize(
    ("wanted", "name"), [("my-project", "my_project"), ("My.Net 2", "my_net_2"), ("moons", "moons"), ("a--b", "a_b")]
)
def test_names_are_made_importable(wanted: str, name: str) -> None:
    assert build.package_name(wanted) == name


@pytest.mark.parametrize("name", ["torch", "test", "orchestrator", "json", "class", "digits", "3d", "...", "ünet", ""])
def test_names_that_will_not_do(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        build.package_name(name)
