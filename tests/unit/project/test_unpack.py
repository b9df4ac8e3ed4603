"""What a project asks for: read, compared with what the node has, installed beside it once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import MachineError
from orchestrator.project import unpack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "cache"


def test_requirements_come_before_pyproject(tmp_path: Path) -> None:
    assert unpack.requirements(tmp_path) == []
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["orchestrator[all]", "tqdm>4"]\n')
    assert unpack.requirements(tmp_path) == ["tqdm>4"]
    (tmp_path / "requirements.txt").write_text("# what we need\nrich>=13 # colours\n\n-r more.txt\n")
    assert unpack.requirements(tmp_path) == ["rich>=13", "-r more.txt"]


@pytest.mark.parametrize(
    ("requirement", "is_there"),
    [
        ("click>=8", True),
        ("click<1", False),
        ("no-such-package-of-ours", False),
        ("no-such-package-of-ours; python_version < '3'", True),
        ("-r more.txt", False),
        ("click @ https://example.org/click.whl", False),
    ],
)
def test_satisfied(requirement: str, is_there: bool) -> None:
    assert unpack.satisfied(requirement) is is_there


def a_wheel(folder: Path) -> Path:
    """Something that pip can install without an index, and that needs what the node has."""
    file = folder / "greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("greeting/__init__.py", "WORD = 'hello'\n")
        told = "greeting-1.0.dist-info"
        wheel.writestr(
            f"{told}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\nRequires-Dist: click>=8\n"
        )
        wheel.writestr(f"{told}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{told}/RECORD", "")
    return file


def test_what_is_missing_is_installed_once_beside_the_nodes_own(tmp_path: Path, cache: Path) -> None:
    wanted = ["--no-index", f"greeting @ file://{a_wheel(tmp_path)}"]
    (tmp_path / "requirements.txt").write_text("\n".join(wanted))
    packages = unpack.packages_for(unpack.requirements(tmp_path), tmp_path)
    installed = sorted(path.name for path in packages.iterdir() if path.suffix == ".dist-info")
    assert installed == ["greeting-1.0.dist-info"], "what the node has is not installed again"
    made = packages.stat().st_mtime_ns
    assert unpack.packages_for(wanted, tmp_path) == packages
    assert packages.stat().st_mtime_ns == made
    unpack.use(packages)
    assert sys.path[0] == str(packages)
    told = subprocess.run([sys.executable, "-c", "import greeting, click; print(greeting.WORD)"], capture_output=True,
                          text=True, env=dict(os.environ))  # fmt: skip
    assert told.stdout.strip() == "hello", told.stderr
    assert unpack.packages_for(wanted, tmp_path) == packages, "also for a process that has them already"


def test_what_cannot_be_installed_is_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(MachineError, match=r"packages cannot be installed on .*no-such-package-of-ours") as caught:
        unpack.packages_for(["--no-index", "no-such-package-of-ours"], tmp_path)
    assert "requirements.txt" in caught.value.hint
    assert [path for path in (cache / "environments").iterdir() if path.is_dir()] == []


def test_made_once_by_many(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("x")

    threads = [threading.Thread(target=unpack.made_once, args=(tmp_path / "a/b", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (tmp_path / "a/b/file").read_text() == "x"
