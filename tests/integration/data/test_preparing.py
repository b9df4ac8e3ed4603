"""The process that prepares data: what it says, how it fails, and that nothing of it stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.config import load
from orchestrator.data.stage import Request
from orchestrator.errors import ConfigError, RunFailedError
from orchestrator.runtime.driver import preparing
from tests.integration.processes import children
from tests.unit.data import makers


def request_for(data: Path, cache: Path, *overrides: str) -> Request:
    loaded = load.load(
        ["job=photos", "cluster=torchrun", f"data.path={data}", f"data.cache={cache}", "data.size=8", *overrides]
    )
    request = preparing.request_for(loaded.resolved, loaded.spec, str(Path.cwd()))
    assert request is not None
    return request


def test_a_stop_ends_it_at_once(tmp_path: Path) -> None:
    request = request_for(makers.photos(tmp_path / "data"), tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        preparing.run(request, print, stopped=lambda: True)
    assert not children(os.getpid(), "stage")
    assert not list(tmp_path.glob("cache/images-*"))


def test_errors_come_over_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no folder or manifest .*/nowhere") as caught:
        preparing.run(request_for(tmp_path / "nowhere", tmp_path / "cache"), print)
    assert "data.path" in caught.value.hint


def test_a_crash_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(makers.photos(tmp_path / "data"), tmp_path / "cache")
    (tmp_path / "numpy.py").write_text("raise SystemError('out of luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunFailedError, match="Preparing the data failed: SystemError: out of luck"):
        preparing.run(request, print)


def test_data_that_is_read_as_it_is_needs_no_process() -> None:
    loaded = load.load(["job=digits"])
    assert preparing.request_for(loaded.resolved, loaded.spec, str(Path.cwd())) is None
