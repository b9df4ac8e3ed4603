"""What a machine lacks for optimizer states on a disk, told by what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.doctor import async_io


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(async_io, "HEADERS", ())
    monkeypatch.setattr(async_io, "LIBRARIES", ())
    monkeypatch.setattr("sys.prefix", str(tmp_path / "environment"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "environment/bin/python"))


def program(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


def test_all_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = async_io.lacking({"PATH": str(tmp_path)})
    assert missing == ("libaio.h", "libaio.so", "a C++ compiler", "ninja")


def test_it_is_found_where_the_environment_says(tmp_path: Path) -> None:
    (tmp_path / "libaio.h").touch()
    (tmp_path / "libaio.so").touch()
    program(tmp_path / "bin", "ninja")
    program(tmp_path / "bin", "own-c++")
    given = {"PATH": str(tmp_path / "bin"), "CXX": "own-c++"}
    assert async_io.lacking({**given, "CPATH": str(tmp_path), "LIBRARY_PATH": str(tmp_path)}) == ()
    assert async_io.lacking({**given, "CFLAGS": f"-O2 -I{tmp_path}", "LDFLAGS": f"-L{tmp_path}"}) == ()
    assert async_io.lacking(given) == ("libaio.h", "libaio.so")
