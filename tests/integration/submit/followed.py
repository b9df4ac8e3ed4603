"""A person's project whose jobs can be looked at: they talk, wait, and fail in the ways that people's programs fail."""

from __future__ import annotations

import json
from pathlib import Path

TASK = '''
import os
import resource
import time

import torch
from torch import nn

from orchestrator import Task

RANK = int(os.environ.get("RANK", "-1"))


class Talking(Task):
    """Says which step it is in, and notes for itself what it has said."""

    step = 0

    def collate(self, items):
        return torch.stack(items)

    def loss(self, model, batch):
        if model.training and RANK >= 0:
            Talking.step += 1
            self.work()
        return nn.functional.mse_loss(model(batch), batch, reduction="sum") / batch.shape[1]

    def work(self):
        time.sleep(float(os.environ.get("PACE_S", "0.3")))
        print(f"rank {RANK} step {Talking.step}", flush=True)
        if os.environ.get("SAID"):
            with open(f"{os.environ['SAID']}/{RANK}", "a") as file:
                file.write(f"{Talking.step}\\n")


class Raises(Talking):
    def work(self):
        print(f"step {Talking.step}", flush=True)
        if RANK == 1 and Talking.step == 7:
            raise ValueError("token 17 is not in the vocabulary")


class Mistyped(Talking):
    def work(self):
        if RANK == 1:
            import toy.mistyped


class Lacks(Talking):
    def work(self):
        if RANK == 1:
            import toy.lacks


class Limited(Talking):
    """More than the system lets it have: refused, as on hosts without overcommitment."""

    def work(self):
        if RANK == 1 and Talking.step == 3:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
            self.table = torch.ones(20_000, 20_000)


class Killed(Talking):
    """More than its container may have: killed by the kernel, without a chance to say anything."""

    def work(self):
        if RANK == 1 and Talking.step == 3:
            print("making a table", flush=True)
            with open(os.environ["CONTAINER"] + "/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
            self.rows = self.table()

    def table(self):
        rows = []
        while True:
            rows.append(bytearray(2**22)) or time.sleep(0.02)


def network():
    return nn.Linear(4, 4)


def numbers(split: str):
    return None if split == "test" else list(torch.randn(64, 4, generator=torch.Generator().manual_seed(len(split))))
'''
MISTYPED = "VOCABULARY = {'a': 1,\nSIZE = len(VOCABULARY)\n"
LACKS = "import torch\nimport einops_that_nobody_has\n"
TASKS = ("Talking", "Raises", "Mistyped", "Lacks", "Limited", "Killed")


def write(folder: Path) -> None:
    """The project's files."""
    (folder / "toy").mkdir(parents=True)
    (folder / "toy/__init__.py").write_text(TASK)
    (folder / "toy/mistyped.py").write_text(MISTYPED)
    (folder / "toy/lacks.py").write_text(LACKS)
    exports = json.dumps([f"toy:{name}" for name in (*TASKS, "network", "numbers")])
    (folder / "pyproject.toml").write_text(f"[tool.orchestrator]\nexports = {exports}\n")
    (folder / ".gitignore").write_text("runs/\nhome/\nsaid/\n")


def job(task: str, *more: str) -> list[str]:
    """Overrides for a job of two workers."""
    return [
        "job=digits",
        f"job.task=toy:{task}",
        "~model",
        "+model={_target_: 'toy:network'}",
        "~data",
        "+data={_target_: 'toy:numbers'}",
        "job.epochs=null",
        "job.steps=10",
        "job.monitor.metric=loss",
        "job.monitor.mode=min",
        "batch=8",
        "strategy=ddp",
        "cluster.workers=2",
        "resilience=off",
        "tracking=off",
        "checkpoint=final_only",
        *more,
    ]
