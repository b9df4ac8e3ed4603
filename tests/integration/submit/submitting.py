"""A person with a project of their own, on a machine with a cluster: what tests of submission share."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ORCHESTRATOR = Path(sys.executable).with_name("orchestrator")
SECRET = "hf_nobody_may_read_this"
TASK = """
import os
import torch
from torch.utils.data import TensorDataset
from orchestrator import Task
import greeting
import jobs

class Line(Task):
    def loss(self, model, batch):
        x, y = batch
        assert os.environ["HF_TOKEN"] == open(os.environ["WHERE"]).read().strip(), "no secret"
        assert os.environ["MODE"] == "fast"
        return ((model(x) - y) ** 2).sum()

    def metrics(self, model, batch):
        return {"loss": self.loss(model, batch), "greeting": torch.tensor(float(len(greeting.WORD) * len(batch[0])))}

def model():
    return torch.nn.Linear(1, 1)

def data(split):
    scale = float(open("data/scale.txt").read())
    x = torch.linspace(-1, 1, 64)[:, None]
    return TensorDataset(x, scale * x + jobs.OFFSET)
"""
JOB = """
# @package _global_
defaults: [override /model: line, override /data: line, _self_]
batch: 16
job: {name: line, task: own.task:Line, epochs: 3}
"""


class Person:
    """A shell in the project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.home = folder / "home"
        self.storage = self.folder / "runs"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        self.env = {**kept, "ORCHESTRATOR_HOME": str(self.home), "XDG_CACHE_HOME": str(folder / "cache")}
        self.folder.mkdir()

    def says(self, *words: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        return subprocess.run(
            [ORCHESTRATOR, *words], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout
        )

    def gets(self, *words: str, timeout: float = 200) -> str:
        """Run a command that has to work."""
        done = self.says(*words, timeout=timeout)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def begins(self, *words: str) -> subprocess.Popen[str]:
        """Start a command, as a terminal does: Ctrl-C reaches it, also where this process ignores it."""
        return subprocess.Popen(
            [ORCHESTRATOR, *words],
            cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def runs_python(self, code: str, timeout: float = 200) -> str:
        """Run a script that has to work."""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def job(self, run: str) -> dict[str, Any]:
        """What is kept of a job."""
        found: dict[str, Any] = json.loads((self.storage / run / "job.json").read_text())
        return found

    def run(self, run: str) -> dict[str, Any]:
        """What its driver keeps; empty before there is a driver."""
        file = self.storage / run / "run.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def trains(self, run: str, attempt: int) -> dict[str, Any]:
        """An attempt, once its workers are there; empty before."""
        attempts = self.run(run).get("attempts", [])
        found: dict[str, Any] = attempts[attempt - 1] if len(attempts) >= attempt else {}
        return found if found.get("first_step") is not None else {}

    def submissions(self, run: str) -> list[str]:
        """What Ray has of a run."""
        code = (
            "import json; from orchestrator.submission import enqueue; from orchestrator.submission.ray_jobs import RayJobs\n"
            "print(RayJobs(enqueue.cluster_here())._ask('GET', '/api/jobs/')[1])"
        )
        return sorted(
            each["submission_id"]
            for each in json.loads(self.runs_python(code))
            if (each["metadata"] or {}).get("run") == run
        )

    def mlflow_runs(self, run: str) -> int:
        """How many runs MLflow has of a run."""
        with sqlite3.connect(self.storage / "mlflow/mlflow.db") as database:
            return int(database.execute("select count(*) from runs where name = ?", (run,)).fetchone()[0])


def write(folder: Path, name: str, text: str) -> Path:
    """A file, and the folders above it."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def own_project(folder: Path) -> None:
    """A Task of one's own that needs a package, a file beside it, a secret, and nothing that is ignored."""
    wheel = folder / "wheels/greeting-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("greeting/__init__.py", "WORD = 'hello'\n")
        told = "greeting-1.0.dist-info"
        packed.writestr(f"{told}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        packed.writestr(f"{told}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{told}/RECORD", "")
    write(folder, "requirements.txt", "--no-index\n./wheels/greeting-1.0-py3-none-any.whl\n")
    write(folder, "own/__init__.py", "")
    write(folder, "jobs/__init__.py", "OFFSET = 0.0\n")  # a name that many teams use, and that is theirs
    write(folder, "own/task.py", TASK)
    write(folder, "conf/job/line.yaml", JOB)
    write(folder, "conf/model/line.yaml", "_target_: own.task:model\n")
    write(folder, "conf/data/line.yaml", "_target_: own.task:data\n")
    write(folder, "data/scale.txt", "2.0")
    write(folder, ".gitignore", "runs/\nscratch/\n")
    write(folder, "scratch/large.bin", "x")
    exports = '["own.task:Line", "own.task:model", "own.task:data"]'
    write(folder, "pyproject.toml", f"[tool.orchestrator]\nexports = {exports}\n")


def soon(look: Callable[[], Any], timeout_s: float = 100.0) -> Any:
    """What a look brings, as soon as it brings something."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"nothing came within {timeout_s:g} s")
