"""What of a project is sent, and that what arrives is that."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.errors import ConfigError, StorageError
from orchestrator.project import pack as package
from orchestrator.project import unpack
from orchestrator.project.pack import MIB, pack


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project as people have them."""
    folder = tmp_path / "project"
    write(folder, "task.py", "x = 1\n")
    write(folder, "run.sh", "#!/bin/sh\n").chmod(0o755)
    write(folder, ".git/HEAD", "ref\n")
    write(folder, "pkg/__pycache__/a.pyc", "")
    write(folder, "env/pyvenv.cfg", "")
    write(folder, "env/bin/python", "")
    return folder


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def names(folder: Path, **options: str) -> list[str]:
    return list(pack(folder, MIB, **options).names)


def test_repositories_environments_and_caches_stay(project: Path) -> None:
    assert names(project) == ["run.sh", "task.py"]


def test_ignore_files_count_each_for_its_folder(project: Path) -> None:
    write(project, ".gitignore", "*.log\ndata/\n!keep.log\n/only_here\n")
    write(project, ".orchignore", "notes/\n!sent.log\n")
    for name in ("a.log", "keep.log", "sent.log", "data/x", "notes/y", "only_here", "sub/only_here", "sub/b.log"):
        write(project, name, "")
    write(project, "sub/.gitignore", "!b.log\nprivate\n")
    write(project, "sub/private", "")
    write(project, "private", "")
    sent = set(names(project)) - {"run.sh", "task.py", ".gitignore", ".orchignore", "sub/.gitignore"}
    assert sent == {"keep.log", "sent.log", "sub/only_here", "sub/b.log", "private"}


def test_runs_inside_the_project_stay(project: Path) -> None:
    write(project, "runs/a/plan.json", "{}")
    assert names(project, storage=str(project / "runs")) == ["run.sh", "task.py"]


def test_what_we_keep_ourselves_stays_wherever_it_lies(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(project / ".own"))
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(project / "cache"))
    for name in (".own/jobs/a.json", "cache/projects/0/task.py"):
        write(project, name, "")
    assert names(project) == ["run.sh", "task.py"]


def test_runs_of_another_storage_stay_too(project: Path) -> None:
    """They change while somebody submits the same once more, and it has to be the same."""
    for storage in ("", "old/"):
        for name in ("a/plan.json", "a/run.json", "b/plan.json", "b/job.json", "c/sweep.json", "c/ledger.jsonl"):
            write(project, storage + name, "{}")
        write(project, f"{storage}mlflow/mlflow.db", "")
        write(project, f"{storage}packages/{'0f' * 16}.zip", "")
    for name in ("mlflow/notes.py", "packages/a.zip", "c/plan.json"):
        write(project, f"own/{name}", "")
    own = ["own/c/plan.json", "own/mlflow/notes.py", "own/packages/a.zip"]
    assert names(project, storage=str(project)) == [*own, "run.sh", "task.py"]


def test_no_room_to_pack_is_told(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"cannot be packed in {tmp_path}: Not a directory"):
        pack(project, MIB).write(tmp_path / "file/a.zip")


def test_links_to_folders_are_told_of_and_links_to_files_are_read(project: Path, tmp_path: Path) -> None:
    data = write(tmp_path, "elsewhere/data.bin", "data").parent
    (project / "data").symlink_to(data)
    (project / "file.bin").symlink_to(data / "data.bin")
    packed = pack(project, MIB)
    assert packed.links == ("data",)
    assert "file.bin" in packed.names
    assert not any(name.startswith("data") for name in packed.names)


def test_too_large_names_the_biggest(project: Path) -> None:
    write(project, "data/images/a.bin", "x" * MIB)
    write(project, "data/images/b.bin", "x" * MIB)
    write(project, "model.bin", "x" * MIB)
    with pytest.raises(ConfigError, match=r"has 3.0 MiB to send, and --upload-limit is 2.0 MiB") as caught:
        pack(project, 2 * MIB)
    first, second = caught.value.message.splitlines()[1:3]
    assert (first.split(), second.split()) == (["2.0", "MiB", "data/images"], ["1.0", "MiB", "model.bin"])
    assert ".orchignore" in caught.value.hint


def test_the_digest_is_of_names_content_and_programs_alone(project: Path) -> None:
    first = pack(project, MIB).digest
    (project / "task.py").touch()
    write(project, ".git/other", "")
    assert pack(project, MIB).digest == first
    (project / "task.py").chmod(0o755)
    second = pack(project, MIB).digest
    write(project, "task.py", "x = 2\n")
    assert len({first, second, pack(project, MIB).digest}) == 3


@pytest.mark.parametrize("scheme", ["", "memory:/"])
def test_what_arrives_is_what_was_sent(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    storage = f"{scheme}{tmp_path}/runs"
    packed = pack(project, MIB)
    place = packed.store(storage)
    assert place == paths.package(storage, packed.digest)
    folder = unpack.unpacked(place)
    assert folder == tmp_path / "cache/projects" / packed.digest
    assert pack(folder, MIB).digest == packed.digest
    assert unpack.is_program(folder / "run.sh")
    assert packed.store(storage) == place
    assert not list((tmp_path / "cache/projects").glob(".*.part"))


def test_a_folder_that_was_looked_for_too_early_is_found(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray lets workers import from where its driver does, whether there is such a folder on their node or not yet."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    write(project, "only_in_the_project.py", "")
    packed = pack(project, MIB)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "cache/projects" / packed.digest), *sys.path])
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("only_in_the_project")
    unpack.ready(packed.store(str(tmp_path / "runs")))
    assert importlib.import_module("only_in_the_project")


def test_what_was_tampered_with_is_refused(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    place = pack(project, MIB).store(str(tmp_path / "runs"))
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("other.py", "x = 3\n")
    with pytest.raises(StorageError, match="its digest is another"):
        unpack.unpacked(place)
    assert [file.name for file in (tmp_path / "cache/projects").iterdir() if file.is_dir()] == []


def test_a_package_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StorageError, match=r"is not at .*any more"):
        unpack.unpacked(paths.package(str(tmp_path), "abc"))


def test_a_project_that_changes_meanwhile_is_not_sent(project: Path, tmp_path: Path) -> None:
    packed = pack(project, MIB)
    write(project, "task.py", "x = 2\n")
    with pytest.raises(ConfigError, match="changed while it was read"):
        packed.store(str(tmp_path / "runs"))
    assert not (tmp_path / "runs" / paths.PACKAGES).exists()


def test_unreadable_ignore_file_is_named(project: Path) -> None:
    (project / package.IGNORE_FILES[1]).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"\.orchignore cannot be read"):
        pack(project, MIB)
