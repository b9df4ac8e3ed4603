"""From the command that hands a job in to its first training step, on a cluster that is up; peer: `ray job submit`."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Measurement, Result, interleave

BIN = Path(sys.executable).parent
PEER = Path(__file__).parent / "peers/ray_job_train.py"
TIMEOUT_S = 300
JOB = ("job=diabetes", "cluster.workers=2", "job.epochs=2", "batch=32")


class Cluster:
    """A cluster of this machine with a home of its own, warm, for both sides."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._project = folder / "project"
        self._project.mkdir(parents=True)
        self._numbers = itertools.count()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        self._env = {**kept, "ORCHESTRATOR_HOME": str(folder / "home")}
        self._storage = folder / "runs"
        told = self._run("up", "--storage", str(self._storage), "--cpus", str(max(2, os.cpu_count() or 2)), "--json")
        self._record = json.loads(told)["record"]

    def ours(self) -> Measurement:
        """`orchestrator submit`, MLflow and all."""
        run = f"run-{next(self._numbers)}"
        begun = time.time()
        self._run("submit", *JOB, f"storage.path={self._storage}", "--id", run)
        returned = time.time()
        first = _soon(lambda: _first_step(self._storage / run))
        self._wait(lambda: self._is_over(run))
        return {"seconds": first - begun, "until_the_command_returned": returned - begun}

    def peer(self) -> Measurement:
        """`ray job submit` of a plain TorchTrainer script."""
        mark = self._folder / f"mark-{next(self._numbers)}"
        env = {**self._env, **self._record["environment"]}
        name = f"peer-{mark.name}"
        words = ["job", "submit", "--no-wait", "--address", self._record["dashboard"], "--submission-id", name]
        words += ["--working-dir", str(self._project), "--", sys.executable, str(PEER), str(mark), f"{mark}-storage"]
        begun = time.time()
        subprocess.run([BIN / "ray", *words], env=env, check=True, capture_output=True, timeout=TIMEOUT_S)
        returned = time.time()
        first = _soon(lambda: float(mark.read_text() or 0) if mark.exists() else 0.0)
        status = [BIN / "ray", "job", "status", "--address", self._record["dashboard"], name]
        self._wait(lambda: b"succeeded" in subprocess.run(status, env=env, capture_output=True).stdout)
        return {"seconds": first - begun, "until_the_command_returned": returned - begun}

    def close(self) -> None:
        """End what was started."""
        self._run("down")

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [BIN / "orchestrator", *words], cwd=self._project, env=self._env, capture_output=True, text=True,
            timeout=TIMEOUT_S,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"orchestrator {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _is_over(self, run: str) -> bool:
        record = self._storage / run / "run.json"
        return record.exists() and json.loads(record.read_text())["status"] == "finished"

    def _wait(self, is_over: Callable[[], bool]) -> None:
        """The next side finds the machine at rest."""
        _soon(lambda: float(is_over()))
        time.sleep(3)


def _first_step(run: Path) -> float:
    """When the first step was done; 0: it is not."""
    for file in (run / "events").glob("rank-0.jsonl"):
        for line in file.read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "metrics" and event["step"]:
                return float(event["time"])
    return 0.0


def _soon(look: Callable[[], float]) -> float:
    end = time.time() + TIMEOUT_S
    while time.time() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise SystemExit(f"nothing came within {TIMEOUT_S} s")


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """Seconds from the command to the end of the first step."""
    cluster = Cluster(folder)
    try:
        found = interleave(pairs, cluster.ours, cluster.peer)
    finally:
        cluster.close()
    what = "from submit to the first training step, on a warm cluster (s)"
    return [Result(name="submission", what=what, figure="seconds", target="<= 0.7", pairs=found)]
