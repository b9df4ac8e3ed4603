"""`hydra/sweeper=orchestrator` in a Hydra app that knows nothing of us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

APP = """
import hydra

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    if cfg.get("fails", -1) == cfg.x:
        raise ValueError("no such x")
    print("job", hydra.core.hydra_config.HydraConfig.get().job.num, cfg.x, cfg.model.size, cfg.batch)
    loss = (cfg.x - 0.3) ** 2 + cfg.model.size
    return (loss, cfg.batch) if cfg.get("both") else loss

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "conf/config.yaml").write_text("defaults: [{model: small}, _self_]\nx: 0\nbatch: 4\n")
    (tmp_path / "conf/model/small.yaml").write_text("size: 1\n")
    (tmp_path / "conf/model/large.yaml").write_text("size: 2\n")
    return tmp_path


def run(app: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "app.py", "-m", "hydra/sweeper=orchestrator", "hydra.sweep.dir=out", *words],
        cwd=app, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_an_interval_is_searched_in_batches(app: Path) -> None:
    words = ("x=interval(0,1)", "model=large,small", "hydra.sweeper.trials=12", "hydra.sweeper.at_once=5")
    done = run(app, *words)
    assert done.returncode == 0, done.stderr
    jobs = [line.split() for line in done.stdout.splitlines() if line.startswith("job ")]
    assert [int(job[1]) for job in jobs] == list(range(12))
    assert all(0 <= float(job[2]) <= 1 for job in jobs)
    assert len({job[2] for job in jobs}) > 10
    found = OmegaConf.load(app / "out/optimization_results.yaml")
    values = [(float(x) - 0.3) ** 2 + int(size) for _, _, x, size, _ in jobs]
    assert found.best_evaluated_value == min(values)
    assert found.best_evaluated_params["model"] == "small"
    assert [job[2:] for job in jobs] == [
        line.split()[2:] for line in run(app, *words).stdout.splitlines() if line.startswith("job ")
    ]


def test_a_grid_of_added_settings_a_job_that_fails_and_two_objectives(app: Path) -> None:
    done = run(app, "+both=true", "+fails=0", "x=0,0.3", "++batch=range(2,8,2)", "hydra.sweeper.mode=[min,max]")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a job failed: ValueError: no such x") == 3
    found = OmegaConf.load(app / "out/optimization_results.yaml")
    assert [solution.params.batch for solution in found.solutions] == [6]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "Nothing is swept: no setting has more than one value."),
        (("model=interval(0,1)",), "model is not a number"),
        (("x=0,1", "hydra.sweeper.mode=up"), "hydra.sweeper.mode=up does not say which way is better."),
        (("x=0,1", "hydra.sweeper.search=tpee"), "hydra.sweeper.search=tpee is not known."),
        (("x=interval(0,1)", "hydra.sweeper.search=grid"), "hydra.sweeper.search=grid needs a finite space."),
    ],
)
def test_what_is_wrong_is_told_in_one_line(app: Path, words: tuple[str, ...], line: str) -> None:
    done = run(app, *words)
    assert done.returncode == 1
    assert line in done.stderr
    assert "Traceback" not in done.stderr
