"""The wheel that goes to other machines: all that is in it, always the same, and pip takes it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from orchestrator.cluster.launch.install import Contents
from orchestrator.project import wheel


def test_it_holds_code_jobs_configs_and_pins_and_can_be_installed(tmp_path: Path) -> None:
    name, data = wheel.build()
    assert wheel.build() == (name, data)
    file = tmp_path / name
    file.write_bytes(data)
    names = zipfile.ZipFile(file).namelist()
    for part in (
        "orchestrator/cli/main.py",
        "orchestrator/jobs/regression.py",
        "orchestrator/_conf/config.yaml",
        "orchestrator/_constraints.txt",
    ):
        assert any(each.startswith(part) for each in names), part
    assert not [each for each in names if "__pycache__" in each]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        tmp_path / "to",
        file,
    ]
    subprocess.run(pip, check=True, timeout=100)
    inside = "from orchestrator import paths; print(paths.shipped_conf(), paths.pins())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", inside], env={"PYTHONPATH": str(tmp_path / "to")}, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(tmp_path / "to/orchestrator" / name) for name in ("_conf", "_constraints.txt")]


def test_what_an_environment_was_made_of_decides_what_is_done_anew() -> None:
    has = Contents(python="3.11.7", pins="a", extras=("node",), code="1")
    told = '{"python": "3.11.7", "pins": "a", "extras": ["node"], "code": "1"}'
    assert (has.matches(told), has.others_match(told)) == (True, True)
    newer = told.replace('"1"', '"2"')
    assert (has.matches(newer), has.others_match(newer)) == (False, True)
    for other in (told.replace("3.11.7", "3.12.1"), told.replace('"a"', '"b"'), "", "{", "[]"):
        assert (has.matches(other), has.others_match(other)) == (False, False)
