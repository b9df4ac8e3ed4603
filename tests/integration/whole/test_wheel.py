"""The wheel by itself: a person's project, made by `init`, in an environment that holds the wheel and no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


def run(command: list[str], folder: Path, timeout: float = 280) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. Dependencies come from this one, by a path file: nothing is downloaded,
    and since path files are not followed twice, this checkout's editable install stays invisible."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    run(build, REPOSITORY)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], folder)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


def test_the_package_comes_from_the_wheel_with_conf_and_jobs(environment: Path, tmp_path: Path) -> None:
    code = "import orchestrator, orchestrator.jobs.image_classification as j; print(orchestrator.__file__); print(j.__file__)"
    for line in run([str(environment / "bin/python"), "-c", code], tmp_path).splitlines():
        assert line.startswith(str(environment))
    plan = json.loads(run([str(environment / "bin/orchestrator"), "plan", "job=diabetes", "--json"], tmp_path))
    assert plan["job"] == "diabetes"


def test_hydra_finds_our_sweeper(environment: Path, tmp_path: Path) -> None:
    code = "from hydra.core.plugins import Plugins\nfrom hydra.plugins.sweeper import Sweeper\nprint(Plugins.instance().discover(Sweeper))"
    assert "OrchestratorSweeper" in run([str(environment / "bin/python"), "-c", code], tmp_path)


def test_a_project_made_by_init_trains_and_passes_its_test(environment: Path, tmp_path: Path) -> None:
    """Its package may be called jobs, as many teams call theirs: ours is orchestrator.jobs, and installs no other."""
    run([str(environment / "bin/orch"), "init", "jobs"], tmp_path)
    project = tmp_path / "jobs"
    run([str(environment / "bin/python"), "-m", "pytest", "-q"], project)
    out = run([str(environment / "bin/orchestrator"), "train", "job=jobs", "cluster.workers=2", "--json"], project)
    summary = json.loads(out)
    assert summary["status"] == "finished"
    assert summary["metrics"]["val/accuracy"] > 0.9
    assert Path(summary["folder"]).is_relative_to(project)
    shown = run([str(environment / "bin/orchestrator"), "runs", "show", "last"], project)
    assert summary["run"] in shown
    run([str(environment / "bin/orchestrator"), "plan", "job=diabetes"], project)
    # Beside an editable install, whose checkout has a folder of that name; and a mere folder without __init__.py.
    (project / "jobs/__init__.py").unlink()
    ours = [sys.executable, "-m", "orchestrator.cli.main"]
    trained = run([*ours, "train", "job=jobs", "job.epochs=1", "tracking=off", "--json"], project)
    assert json.loads(trained)["status"] == "finished"
