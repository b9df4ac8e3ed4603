"""torchmetrics objects over several workers: what they say together is what one says that has seen all items."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection, PearsonCorrCoef, SumMetric
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryPrecision,
    BinaryRecall,
    MulticlassF1Score,
)
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.retrieval import RetrievalMAP
from torchmetrics.text import WordErrorRate
from torchmetrics.wrappers import ClasswiseWrapper

from orchestrator.config.schema import Loader as Settings
from orchestrator.errors import ConfigError
from orchestrator.models.evaluate import Alone
from orchestrator.runtime.worker.data.loader import Loader
from orchestrator.runtime.worker.data.source import Source
from orchestrator.runtime.worker.evaluation.evaluation import evaluate
from orchestrator.runtime.worker.evaluation.measures import Measures
from orchestrator.task import Measured, Task

CPU = torch.device("cpu")
COUNT = 40
SCORES = torch.rand(COUNT, generator=torch.Generator().manual_seed(0))
LABELS = (torch.rand(COUNT, generator=torch.Generator().manual_seed(1)) < SCORES).long()
WORDS = ["one two", "one", "two three four", "four"] * 10

Shares = Sequence[Sequence[range]]
"""Of each worker: the items of its batches."""
SHARES: dict[str, Shares] = {
    "even": [[range(10), range(10, 20)], [range(20, 30), range(30, 40)]],
    "uneven": [[range(13), range(13, 14), range(14, 31)], [range(31, 40)]],
    "one without items": [[range(7)], [], [range(7, 40)]],
    "all with one": [[], [range(40)], []],
}


def of(items: Sequence[int]) -> dict[str, Measured]:
    """What a Task would give of a batch with these items."""
    chosen = list(items)
    scores, labels = SCORES[chosen], LABELS[chosen]
    likely = (scores * 3).long()
    texts = [[WORDS[place] for place in places] for places in (chosen, [k * 7 % COUNT for k in chosen])]
    return {
        "auroc": Measured(BinaryAUROC, scores, labels),
        "binned": Measured(partial(BinaryAUROC, thresholds=20), scores, labels),
        "precision": Measured(BinaryAveragePrecision, scores, labels),
        "f1": Measured(partial(MulticlassF1Score, num_classes=3), likely, labels * 2),
        "class": Measured(lambda: ClasswiseWrapper(MulticlassF1Score(3, average="none")), likely, labels * 2),
        "both": Measured(lambda: BinaryPrecision() + BinaryRecall(), scores, labels),
        "ranked": Measured(RetrievalMAP, scores, labels, indexes=torch.tensor(chosen) % 4),
        "errors": Measured(WordErrorRate, *texts),
        "total": Measured(SumMetric, labels),
        "correlation": Measured(PearsonCorrCoef, scores, labels.float()),
        "noise": Measured(partial(PeakSignalNoiseRatio, data_range=1.0), scores, labels.float()),
    }


def together(shares: Shares, of: Callable[[Sequence[int]], Mapping[str, Measured]]) -> list[dict[str, float]]:
    """What each worker finds. What they tell each other is pickled, as between processes."""
    told = [b""] * len(shares)
    all_told = threading.Barrier(len(shares), timeout=20)

    def found_by(rank: int) -> dict[str, float]:
        def gather(value: Any) -> list[Any]:
            told[rank] = pickle.dumps(value)
            all_told.wait()
            return [pickle.loads(part) for part in told]  # noqa: S301 - dumped above

        measures = Measures(CPU)
        # As in an evaluation: who has no items repeats one, which does not count.
        for items in shares[rank] or [range(1)]:
            for name, measured in of(items).items():
                measures.add(name, measured, counts=bool(shares[rank]))
        return measures.results(gather)

    with ThreadPoolExecutor(len(shares)) as pool:
        return list(pool.map(found_by, range(len(shares))))


def in_one_process() -> dict[str, float]:
    """What torchmetrics says by itself."""
    found: dict[str, float] = {}
    for name, measured in of(range(COUNT)).items():
        metric = measured.make()
        metric.update(*measured.given, **measured.named)
        value = metric.compute()
        several = {f"{name}_{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: float(part) for key, part in several.items()}
    return found


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_workers_find_what_one_process_finds(shares: Shares) -> None:
    expected = in_one_process()
    rounded = {name: expected.pop(name) for name in ("correlation", "noise")}  # made of sums of what is no integer
    for found in together(shares, of):
        assert {name: found.pop(name) for name in rounded} == pytest.approx(rounded, rel=1e-5)
        assert found == expected


class Averaging(Metric):
    """With a state that torchmetrics would average over processes."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean", torch.tensor(0.0), dist_reduce_fx="mean")

    def update(self, values: Tensor) -> None:
        self.mean = values.mean()

    def compute(self) -> Tensor:
        return self.mean


def test_a_mean_of_means_is_refused() -> None:
    shares = SHARES["uneven"]
    with pytest.raises(ConfigError, match=r"Averaging \('mean'\) takes the mean of its 'mean' over workers"):
        together(shares, lambda items: {"mean": Measured(Averaging, SCORES[list(items)])})
    found = together(shares, lambda items: {"mean": Measured(MeanMetric, SCORES[list(items)])})
    assert found == [{"mean": pytest.approx(float(SCORES.mean()))}] * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetricCollection([BinaryAUROC()]), "The metric 'x' is Measured by MetricCollection"),
        (lambda: BinaryAUROC, "which is no torchmetrics Metric"),
        (
            lambda: MulticlassF1Score(3, average="none"),
            "MulticlassF1Score gives 3 numbers for 'x', not one",
        ),
    ],
)
def test_what_makes_no_number_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        together(
            [[range(4)]], lambda items: {"x": Measured(make, (SCORES[list(items)] * 3).long(), LABELS[list(items)])}
        )


class Judged(Task):
    """AUROC beside a sum, and whatever else a test says."""

    summed: Mapping[str, float] = {}

    def count(self, batch: Any) -> int:
        return len(batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | Measured]:
        scores, labels = batch
        return {"auroc": Measured(BinaryAUROC, model(scores), labels), "share": labels.sum()}

    def summary(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        return super().summary(sums, count) | dict(self.summed)


def judge(task: Task) -> dict[str, float]:
    items = list(zip(SCORES, LABELS, strict=True))
    alone = Alone(nn.Identity())
    loader = Loader(Source(task=task, dataset=items, split="test"), Settings(), pin=False)
    try:
        shares = [(list(range(16)), True), (list(range(16, COUNT)), True), ([0], False)]
        return evaluate(task, alone, alone, loader, shares, counts=True, device=CPU)
    finally:
        loader.close()


def test_what_is_measured_joins_what_is_summed() -> None:
    task = Judged(nn.Identity, lambda split: None)
    expected = {"share": float(LABELS.sum()) / COUNT, "auroc": in_one_process()["auroc"]}
    assert judge(task) == expected
    assert judge(task) == expected, "each evaluation begins anew"
    task.summed = {"auroc": 1.0}
    with pytest.raises(
        ConfigError, match="Judged has two metrics of the name 'auroc': in summary, and by torchmetrics"
    ):
        judge(task)
