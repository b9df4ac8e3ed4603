"""From a laptop: what runs on the head, and what comes in there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.cli import incoming
from orchestrator.cli import main as cli
from orchestrator.config.request import ConfigArgs
from orchestrator.errors import ConfigError
from orchestrator.project import unpack
from orchestrator.project.pack import MIB, pack
from orchestrator.submission import remote, request
from orchestrator.submission.limits import UPLOAD_LIMIT


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["stop", "--cluster", "c.yaml", "a", "--now"], ["stop", "a", "--now"]),
        (["logs", "a", "--cluster=c.yaml", "-f"], ["logs", "a", "-f"]),
        (["jobs"], ["jobs"]),
    ],
)
def test_the_same_words_without_where(words: list[str], there: list[str]) -> None:
    assert remote.without_option(words) == there


def test_what_comes_in_is_submitted_from_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, home = tmp_path / "project", tmp_path / "home"
    (project / "conf").mkdir(parents=True)
    (project / "conf/config.yaml").write_text("a: 1\n")
    packed = pack(project, MIB)
    come = home / remote.INCOMING / "1"
    come.mkdir(parents=True)
    packed.write(come / f"{packed.digest}.zip")
    (come / "plan.json").write_text("{}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    for name in (paths.PROJECT, paths.PACKED):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    seen: list[object] = []
    there = tmp_path / "cache/projects" / packed.digest

    def main(words: list[str]) -> int:
        (there / "left_by_a_job.txt").write_text("")
        assert request.pack("", "1MiB").store(str(tmp_path / "runs")).endswith(f"{packed.digest}.zip")
        seen.extend([words, Path.cwd(), paths.project_dir(), paths.project_conf(), paths.absolute("runs")])
        assert (come / "plan.json").is_file()
        return 7

    monkeypatch.setattr(cli, "main", main)
    assert incoming.main(f"{remote.INCOMING}/1", packed.digest, "submit", "--id", "a", "--plan", "plan.json") == 7
    words = ["submit", "--id", "a", "--plan", str(come / "plan.json")]
    assert seen == [words, home, there, there / "conf", str(home / "runs")]
    assert not come.exists()
    unpack.unpack(Path(paths.package(str(tmp_path / "runs"), packed.digest)), tmp_path / "fresh")
    assert pack(tmp_path / "fresh", MIB).digest == packed.digest, "the project is the same on both sides"


def test_a_config_folder_stays_here() -> None:
    with pytest.raises(ConfigError, match="--config-dir stays on this machine"):
        remote.submit("c.yaml", ConfigArgs(config_dir="x"), None, None, wait=False, upload_limit=UPLOAD_LIMIT)


def test_links_that_are_not_sent_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        folder.mkdir()
    for name in (paths.PROJECT, paths.PACKED):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(project)
    request.pack("", "1MiB")
    assert capsys.readouterr().err == ""
    for number in range(7):
        (project / f"data{number}").symlink_to(elsewhere)
    (project / ".orchignore").write_text("data0\n")
    request.pack("", "1MiB")
    told = capsys.readouterr().err
    assert told.startswith(
        "Not sent, because links to folders are left out: data1, data2, data3, data4, data5 and 1 more. "
    )
