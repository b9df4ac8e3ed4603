"""Training against plain scripts: steps per second, CPU per step, and the time from the command to the first step."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.harness import Measurement, Result, interleave, run

PEERS = Path(__file__).parent / "peers"
ORCHESTRATOR = str(Path(sys.executable).parent / "orchestrator")
STEPS, WARM = 300, 50
"""Steps of a run, and how many of them are thrown away."""
OVERRIDES = [
    *("job=digits", "strategy=zero2", "cluster.workers=2", "model.width=32", "batch=64"),
    *("job.epochs=null", f"job.steps={STEPS}", "job.clip=1.0"),
    *("job.evaluate.epochs=null", "checkpoint.every.epochs=null", "checkpoint.best=false"),
    *("tracking.log_model=false", "tracking.system_metrics=false"),
]


def is_torchrun_worker(process: psutil.Process) -> bool:
    """A Python under torchrun that is not torchrun itself."""
    words = " ".join(process.cmdline())
    return "deepspeed_script" in words and "torch.distributed.run" not in words


def is_ray_worker(process: psutil.Process) -> bool:
    """An actor of our gang, or of Ray Train's worker group."""
    return any(name in " ".join(process.cmdline()) for name in ("GangMember", "RayTrainWorker"))


class Sides:
    """Both sides of the comparison, each run in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._plan = folder / "plan.json"
        folder.mkdir(parents=True, exist_ok=True)
        run([ORCHESTRATOR, "plan", *OVERRIDES, "--out", str(self._plan)], folder, is_ray_worker)

    def ours(self) -> Measurement:
        """`orchestrator train`."""
        folder = self._folder / f"ours-{next(self._numbers)}"
        started, _, watch = run([ORCHESTRATOR, "train", *OVERRIDES], folder, is_ray_worker)
        (events,) = folder.glob("runs/digits-*/events/rank-0.jsonl")
        records = [json.loads(line) for line in events.read_text().splitlines()]
        marks = {record["step"]: record["time"] for record in records if record["kind"] == "metrics"}
        return figures(started, marks, watch.between)

    def torchrun(self) -> Measurement:
        """The plain DeepSpeed script under torchrun."""
        command = [
            str(Path(sys.executable).parent / "torchrun"),
            "--nproc-per-node",
            "2",
            str(PEERS / "deepspeed_script.py"),
        ]
        return self._peer("torchrun", command, is_torchrun_worker)

    def ray(self) -> Measurement:
        """The same script in a plain TorchTrainer."""
        return self._peer("ray", [sys.executable, str(PEERS / "ray_script.py")], is_ray_worker)

    def _peer(self, name: str, command: list[str], is_worker: Callable[[psutil.Process], bool]) -> Measurement:
        folder = self._folder / f"{name}-{next(self._numbers)}"
        started, _, watch = run([*command, str(self._plan), str(folder / "marks.json")], folder, is_worker)
        marks = {int(step): moment for step, moment in json.loads((folder / "marks.json").read_text()).items()}
        return figures(started, marks, watch.between)


def figures(started: float, marks: dict[int, float], cpu: Callable[[float, float], float]) -> Measurement:
    """From the moments at which steps ended."""
    first, last = marks[WARM], marks[STEPS]
    return {
        "steps_per_s": (STEPS - WARM) / (last - first),
        "cpu_s_per_step": cpu(first, last) / (STEPS - WARM),
        "first_step_s": marks[1] - started,
    }


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """All comparisons of this module."""
    sides = Sides(folder)
    torchrun = interleave(pairs, sides.ours, sides.torchrun)
    ray = interleave(pairs, sides.ours, sides.ray)
    what = "digits ResNet, ZeRO-2, 2 workers"
    against = "torchrun + DeepSpeed + MLflow"
    return [
        Result(
            name="steps", what=f"{what}: steps/s, {against}", figure="steps_per_s", target=">= 0.93", pairs=torchrun
        ),
        Result(
            name="cpu",
            what=f"{what}: CPU-s a step, {against}",
            figure="cpu_s_per_step",
            target="<= 1.03",
            pairs=torchrun,
        ),
        Result(
            name="start",
            what=f"{what}: s to the first step, cold, Ray TorchTrainer",
            figure="first_step_s",
            target="<= 0.8",
            pairs=ray,
        ),
    ]
