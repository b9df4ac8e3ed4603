"""Trials per second of a sweep against plain Ray Tune: digits for one epoch, 16 trials, as many at once each."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Measurement, Result, interleave, run
from benchmarks.training import ORCHESTRATOR, PEERS, is_ray_worker

TRIALS = 16
JOB = ["job=digits", "job.epochs=1", "tracking=off", "tracking.system_metrics=false"]
RATES = "optimizer.lr=" + ",".join(f"{1e-3 * (1 + number / 10):.4g}" for number in range(TRIALS))


class Sides:
    """Both sides, each run in a folder of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._workers = workers
        self._plan = folder / "plan.json"
        self._job = [*JOB, f"cluster.workers={workers}"]
        folder.mkdir(parents=True, exist_ok=True)
        run([ORCHESTRATOR, "plan", *self._job, "--out", str(self._plan)], folder, is_ray_worker)

    def ours(self) -> Measurement:
        """From the beginning of `Tuner.fit` to the end of the last trial; workers start in between.

        `fit` begins by asking for the second trial: the first was chosen before Ray was there.
        """
        folder = self._folder / f"ours-{next(self._numbers)}"
        run([ORCHESTRATOR, "sweep", "--name", "s", *self._job, RATES], folder, is_ray_worker)
        entries = [json.loads(line) for line in (folder / "runs/s/ledger.jsonl").read_text().splitlines()]
        begun = [entry["time"] for entry in entries if entry["kind"] == "trial"][1]
        ended = [entry for entry in entries if entry["kind"] == "ended"]
        if len(ended) < TRIALS or any(entry["state"] != "finished" for entry in ended):
            raise SystemExit(f"not all trials finished: {folder}")
        return {"trials_per_s": TRIALS / (ended[-1]["time"] - begun)}

    def peer(self, way: str) -> Measurement:
        """From the beginning of `Tuner.fit` to its end."""
        folder = self._folder / f"{way}-{next(self._numbers)}"
        folder.mkdir(parents=True)
        command = [sys.executable, str(PEERS / "tune_script.py"), str(self._plan), way, str(TRIALS), str(self._workers)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        told = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
        if not told or json.loads(told[-1])["errors"]:
            raise SystemExit(f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return {"trials_per_s": TRIALS / json.loads(told[-1])["seconds"]}


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """One worker a trial against three ways of Ray Tune, two workers against one."""
    results = []
    for workers, way, target in (
        (1, "trainer", ">= 8"),
        (1, "function", ">= 3"),
        (1, "reuse", "none"),
        (2, "trainer", ">= 5"),
    ):
        sides = Sides(folder / f"{way}-{workers}", workers)
        paired = interleave(pairs, sides.ours, lambda sides=sides, way=way: sides.peer(way))  # type: ignore[misc]
        what = f"digits, 1 epoch, {workers} worker{'s' if workers > 1 else ''} a trial: trials/s, Ray Tune {NAMES[way]}"
        results.append(
            Result(name=f"sweep-{way}-{workers}", what=what, figure="trials_per_s", target=target, pairs=paired)
        )
    return results


NAMES = {
    "trainer": "with a TorchTrainer per trial",
    "function": "with a function trainable",
    "reuse": "with a function trainable and reuse_actors",
}
