"""torchmetrics objects in real trainings: on workers with unequal shares, on none, and in pairs that share layers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryF1Score
from torchmetrics.text import WordErrorRate

from orchestrator import paths
from orchestrator.config.targets import targets
from orchestrator.models import pyfunc
from orchestrator.models.evaluate import evaluate
from orchestrator.records.runs import RunRecord
from tests.integration.training import carry_out, curve, plan_of

pytestmark = pytest.mark.usefixtures("forked_workers")

CODE = """
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset
from torchmetrics import SumMetric
from torchmetrics.classification import BinaryAUROC, BinaryF1Score
from torchmetrics.text import WordErrorRate

from orchestrator.jobs.causal_lm import CausalLm
from orchestrator import Measured, Task


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope, self.offset = (nn.Parameter(torch.tensor([value])) for value in (0.5, 0.1))

    def forward(self, points):
        return points * self.slope + self.offset


class Sides(Task):
    def loss(self, model, batch):
        return binary_cross_entropy_with_logits(model(batch[0]), batch[1].float(), reduction="sum")

    def metrics(self, model, batch):
        scores, labels = model(batch[0]).sigmoid(), batch[1]
        words = [["yes" if side else "no" for side in sides.tolist()] for sides in (scores > 0.5, labels)]
        return {
            "loss": self.loss(model, batch),
            "auroc": Measured(BinaryAUROC, scores, labels),
            "f1": Measured(BinaryF1Score, scores, labels),
            "errors": Measured(WordErrorRate, *words),
        }


class Counted(CausalLm):
    def metrics(self, model, batch):
        return {**super().metrics(model, batch), "tokens": Measured(SumMetric, self.count(batch))}


def points(split: str, val: int = 1, test: int = 13) -> TensorDataset:
    size = {"train": 32, "val": val, "test": test}[split]
    drawn = torch.Generator().manual_seed(len(split))
    places = torch.randn(size, generator=drawn)
    return TensorDataset(places, (places + torch.randn(size, generator=drawn) > 0).long())
"""
FILES = {
    "own/__init__.py": CODE,
    "pyproject.toml": """
[tool.orchestrator]
exports = ["own:Line", "own:Sides", "own:Counted", "own:points"]
""",
    "conf/model/line.yaml": "_target_: own:Line\n",
    "conf/data/points.yaml": "_target_: own:points\nval: 1\ntest: 13\n",
    "conf/job/sides.yaml": """
# @package _global_
defaults:
  - override /model: line
  - override /data: points
  - _self_

batch: 8
micro_batch: 4
cluster:
  workers: 2
job:
  name: sides
  task: own:Sides
  steps: 4
  monitor:
    metric: auroc
    mode: max
""",
}
MADE: dict[str, Callable[[], Metric]] = {"auroc": BinaryAUROC, "f1": BinaryF1Score, "errors": WordErrorRate}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return folder


def in_one_process(record: RunRecord, split: str) -> dict[str, float]:
    """What torchmetrics says of all items at once, given to it by nobody but this function."""
    module = pyfunc.load(Path(record.root) / paths.MODEL).module
    task = targets.bind(record.plan.spec, project=paths.project_dir()).task()
    dataset: Any = task.dataset(split)
    batch = task.collate([dataset[index] for index in range(len(dataset))])
    with torch.no_grad():
        measured = task.metrics(module, batch)
    found = {}
    for name, make in MADE.items():
        metric = make()
        metric.update(*measured[name].given)
        found[f"{split}/{name}"] = float(metric.compute())
    return found


@pytest.mark.filterwarnings("ignore:No (posi|nega)tive samples in targets")
def test_uneven_shares_measure_what_one_process_measures() -> None:
    """13 items for two workers in batches of 4: 7 and 6, in batches of 4, 3, 4 and 2; and one item, for one of them."""
    record = carry_out(plan_of("job=sides", "strategy=zero3"))
    expected = in_one_process(record, "test") | in_one_process(record, "val")
    assert {name: record.final_metrics[name] for name in expected} == expected
    assert 0 < expected["test/auroc"] < 1
    again = evaluate(record, split="test").metrics
    assert {f"test/{name}": again[name] for name in MADE}.items() <= expected.items()


def test_the_best_checkpoint_can_be_chosen_by_it() -> None:
    options = ["data.val=20", "job.steps=6", "job.evaluate={steps: 2, epochs: null}", "optimizer.lr=0.2"]
    record = carry_out(plan_of("job=sides", *options, "job.monitor.metric=f1"))
    values = curve(record, "val/f1")
    assert len(values) == 3
    assert record.final_metrics["val/f1"] == max(values.values())


def test_workers_that_share_layers_count_once() -> None:
    small = ["model.width=16", "model.blocks=1", "model.context=16", "data.context=16", "batch=16", "mesh.tensor=2"]
    held_out = ["data.val_fraction=0.005", "data.test_fraction=0.005"]
    length = ["job.epochs=null", "job.steps=2", "cluster.workers=2"]
    record = carry_out(plan_of("job=causal_lm", "job.task=own:Counted", *small, *held_out, *length))
    task = targets.bind(record.plan.spec, project=paths.project_dir()).task()
    test = task.dataset("test")
    assert test is not None
    assert record.final_metrics["test/tokens"] == 16 * len(test)
    assert record.final_metrics["test/perplexity"] > 1
