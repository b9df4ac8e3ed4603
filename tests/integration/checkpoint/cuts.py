"""A run that is cut: a model with all that checkpoints forget elsewhere, killed at some step, compared with one that is not.

`python -m tests.integration.checkpoint.cuts` (`make matrix`) does so at 20 random steps under each strategy, goes on where it was
interrupted, and writes the table in docs/checkpoints.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from orchestrator import paths
from orchestrator.errors import RunFailedError
from orchestrator.foundation.storage import LocalStore, write_atomically
from orchestrator.plans.types import Plan
from orchestrator.records import events, runs
from orchestrator.records.events import Event
from orchestrator.runtime.checkpoint.catalog import Catalog
from orchestrator.runtime.checkpoint.states import mean_buffer
from orchestrator.runtime.driver import driver
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from tests.integration.training import Recorder, carry_out, curve, go_on, plan_of, spec_of

STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
STEPS = 12
SEEDS = 20
ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "matrix.json"
DOCUMENT = ROOT / "docs" / "checkpoints.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"

MIXED = '''
import os
import time
import torch
from torch import nn
from orchestrator import Task


class Net(nn.Module):
    """Batch norm, frozen layers, a buffer of integers, a shared weight, sizes that no number of workers divides."""

    def __init__(self, width: int = 33, dropout: float = 0.1):
        super().__init__()
        self.dropout = dropout
        self.first = nn.Linear(7, width)
        self.norm = nn.BatchNorm1d(width)
        self.frozen = nn.Linear(width, width)
        self.frozen.requires_grad_(False)
        self.frozen_norm = nn.BatchNorm1d(width)
        self.frozen_norm.requires_grad_(False)
        self.middle = nn.Linear(width, width)
        self.again = nn.Linear(width, width)
        self.again.weight = self.middle.weight
        self.scale = nn.Parameter(torch.ones(1))
        self.last = nn.Linear(width, 3)
        if os.environ.get("DISTURB"):  # what a checkpoint does not bring back stays wrong, and wrong on each worker
            generator = torch.Generator().manual_seed(os.getpid())
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.rand(tensor.shape, generator=generator))

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = self.frozen_norm(self.frozen(x)).relu()
        x = nn.functional.dropout(self.middle(x), self.dropout, self.training).relu()
        return self.last(self.again(x).relu() * self.scale)


class Mixed(Task):
    def loss(self, model, batch):
        x, y, numbers = batch
        time.sleep(float(os.environ.get("SLOW", "0")))
        if model.training and os.environ.get("SAMPLES"):
            with open(os.environ["SAMPLES"] + str(torch.distributed.get_rank()), "a") as file:
                file.write(" ".join(map(str, numbers.tolist())) + "\\n")
        return nn.functional.cross_entropy(model(x), y, reduction="sum")


def rows(split: str, items: int = 90):
    generator = torch.Generator().manual_seed(len(split))
    x = torch.randn(items, 7, generator=generator)
    return [(x[k], int(x[k, :3].argmax()), k) for k in range(items)]
'''


def make_project(folder: Path) -> Path:
    """A person's project with the package `mixed`."""
    (folder / "mixed").mkdir(parents=True)
    (folder / "mixed" / "__init__.py").write_text(MIXED)
    exports = json.dumps([f"mixed:{name}" for name in ("Net", "Mixed", "rows")])
    (folder / "pyproject.toml").write_text(f"[tool.orchestrator]\nexports = {exports}\n")
    return folder


def mixed(*overrides: str) -> Plan:
    return plan_of(
        "job=digits",
        "job.task=mixed:Mixed",
        "~model",
        "+model={_target_: 'mixed:Net'}",
        "~data",
        "+data={_target_: 'mixed:rows'}",
        "job.epochs=null",
        "job.steps=12",
        "job.monitor.metric=loss",
        "job.monitor.mode=min",
        "job.evaluate={steps: 4, epochs: null}",
        "optimizer.weight_decay=0.01",
        "optimizer.no_decay=[norm,bias]",
        "schedule=constant",
        "batch=12",
        "accumulation=2",
        "cluster.workers=2",
        "checkpoint.every={steps: 3, epochs: null}",
        "checkpoint.keep=99",
        "resilience.max_failures=0",
        *overrides,
    )


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for the time of a block."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def difference_after_kill(strategy: str, seed: int) -> str | None:
    """What is not to the bit as in an undisturbed run, after a kill at a random step and a resume from other weights."""
    plan = mixed(f"strategy={strategy}")
    with environment(SLOW="0.05"):
        undisturbed = carry_out(plan)
        record = killed_at(plan, random.Random(f"{strategy} {seed}").randint(3, STEPS - 3))
        with environment(DISTURB="1"):
            resumed = go_on(record)
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        if curve(resumed, name) != curve(undisturbed, name):
            return name
    if weights(resumed) != weights(undisturbed):
        return "the final model"
    if state_of(resumed.root) != state_of(undisturbed.root):
        return "optimizer, weights or buffers of the last checkpoint"
    shutil.rmtree(resumed.root)
    shutil.rmtree(undisturbed.root)
    return None


def killed_at(plan: Plan, step: int) -> runs.RunRecord:
    """A run of which nothing is left after a step but its storage, with a checkpoint in it."""
    launcher, record = TorchrunLauncher(), runs.create(plan)
    saved: list[str] = []

    def kill(event: Event) -> None:
        if event.kind == events.CHECKPOINT:
            saved.append(event.data["name"])
        if saved and event.kind == events.METRICS and event.step is not None and event.step >= step:
            launcher.kill()

    try:
        driver.carry_out(record, plan, spec_of(plan), Recorder(act=kill), launcher)
    except RunFailedError:
        return record
    raise AssertionError("the run was over before it could be killed")


def weights(record: runs.RunRecord) -> str:
    """Fingerprint of the final model."""
    return hashlib.sha256((Path(record.root) / paths.MODEL / "model.safetensors").read_bytes()).hexdigest()


def state_of(root: str | Path, name: str | None = None) -> dict[str, str]:
    """Every tensor and number of a checkpoint, whoever held which part of it, as fingerprints."""
    catalog = Catalog(LocalStore(f"{root}/{paths.CHECKPOINTS}"))
    with catalog.opened(name or str(catalog.last())) as checkpoint:
        assert checkpoint.whole_damage() is None
        reader = checkpoint.reader()
        tensors = {name: reader.whole(name) for name in reader.names() if not name.startswith("buffers/")}
        for name in reader.names("buffers/0/"):
            tensors[name] = mean_buffer(reader, name.removeprefix("buffers/0/"))
        numbers = {name: json.dumps(value["value"]) for name, value in reader.scalars.items()}
    return numbers | {name: _fingerprint(tensor) for name, tensor in tensors.items()}


def _fingerprint(tensor: torch.Tensor) -> str:
    raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{tuple(tensor.shape)} {hashlib.sha256(raw).hexdigest()}"


def main() -> None:
    """What has no result yet is run; then the table is written."""
    results: dict[str, str | None] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory(prefix="orchestrator-matrix-") as scratch:
        os.chdir(make_project(Path(scratch) / "project"))
        sys.path.insert(0, str(Path.cwd()))
        for seed in range(SEEDS):
            for strategy in STRATEGIES:
                if f"{strategy} {seed}" not in results:
                    results[f"{strategy} {seed}"] = difference_after_kill(strategy, seed)
                    write_atomically(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
                    print(f"{strategy}, seed {seed}: {results[f'{strategy} {seed}'] or 'equal'}", flush=True)
    put_table(DOCUMENT, table(results))
    if any(results.values()):
        raise SystemExit("Some runs differ after they were killed.")


def put_table(document: Path, lines: str) -> None:
    """Write a table between the marks in a document."""
    head, _, rest = document.read_text().partition(BEGIN)
    document.write_text(f"{head}{BEGIN}\n{lines}{END}{rest.partition(END)[2]}")


def table(results: dict[str, str | None]) -> str:
    """Markdown."""
    lines = ["| strategy | killed and resumed | equal to the bit |", "| --- | --- | --- |"]
    for strategy in STRATEGIES:
        mine = [value for name, value in results.items() if name.split()[0] == strategy]
        lines.append(f"| {strategy} | {len(mine)} | {mine.count(None)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
