"""Regression on a table: an MLP on scikit-learn's diabetes data, or on any table of numbers and categories.

Train it:  orchestrator train job=diabetes
           orchestrator train job=table data.path=diamonds.csv data.target=price
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

from orchestrator import Task
from orchestrator.data.columns import Columns
from orchestrator.data.prepared import Prepared, PreparedDataset
from orchestrator.data.readers import tables
from orchestrator.data.records import Splits
from orchestrator.errors import ConfigError
from orchestrator.jobs.bundled import bundled
from orchestrator.jobs.splits import split_indices


class Regression(Task):
    """One number per row; batches are (rows, targets)."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Summed squared error."""
        rows, targets = batch
        return mse_loss(model(rows), targets, reduction="sum")

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """What MAE, RMSE and R2 are made of."""
        rows, targets = batch
        return error_sums(model(rows), targets)

    def show(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Each row's target, and what the model makes of it."""
        rows, targets = batch
        return {"truth": targets.flatten(), "answer": model(rows).flatten()}

    def summary(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Loss, MAE, RMSE and the share of variance explained."""
        mean_squared = sums["squared_error"] / count
        variance = sums["squared_targets"] / count - (sums["targets"] / count) ** 2
        return {
            "loss": mean_squared,
            "mae": sums["absolute_error"] / count,
            "rmse": math.sqrt(mean_squared),
            "r2": 1 - mean_squared / variance if variance > 0 else float("nan"),
        }


def error_sums(predicted: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Sums that MAE, RMSE and R2 are made of, however a split is cut into batches."""
    error = predicted - targets
    return {
        "squared_error": error.square().sum(),
        "absolute_error": error.abs().sum(),
        "targets": targets.sum(),
        "squared_targets": targets.square().sum(),
    }


class TableRegression(Regression):
    """One number per row of numbers and categories; batches are (numbers, categories, targets)."""

    _mean, _deviation = 0.0, 1.0
    _shape: tuple[int, list[int]] | None = None
    """Numbers, and how many values each category has: what the model must be made for."""

    def dataset(self, split: str) -> PreparedDataset | None:
        """The rows of a split."""
        dataset: PreparedDataset | None = super().dataset(split)  # type: ignore[assignment]
        if dataset is not None:
            categories = [len(known) + 1 for known in dataset.facts["categories"].values()]
            self._shape = len(dataset.facts["numeric"]), categories
            target = dataset.facts["target"]
            self._mean, self._deviation = target["mean"], target["deviation"]
        return dataset

    def inputs(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Numbers and categories."""
        return batch[0], batch[1]

    def count(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        """Rows."""
        return len(batch[2])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Summed squared error."""
        self._check(model)
        return mse_loss(model(*self.inputs(batch)), batch[2], reduction="sum")

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """What MAE, RMSE and R2 are made of."""
        return error_sums(model(*self.inputs(batch)), batch[2])

    def show(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Each row's target and what the model makes of it, in the target's own unit."""
        answer = model(*self.inputs(batch))
        return {"truth": self._in_unit(batch[2]), "answer": self._in_unit(answer)}

    def _in_unit(self, scaled: Tensor) -> Tensor:
        return (scaled * self._deviation + self._mean).flatten()

    def summary(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Loss as trained; MAE and RMSE in the target's own unit; the share of variance explained."""
        metrics = super().summary(sums, count)
        return metrics | {name: metrics[name] * self._deviation for name in ("mae", "rmse")}

    def _check(self, model: nn.Module) -> None:
        made_for = getattr(model, "module", model)
        if self._shape and isinstance(made_for, MixedMlp) and self._shape != (made_for.numbers, made_for.categories):
            numbers, categories = self._shape
            values = ",".join(map(str, categories))
            raise ConfigError(
                f"The table has {numbers} columns of numbers and {len(categories)} of categories, and the model is made"
                f" for {made_for.numbers} and {len(made_for.categories)} (or for other numbers of categories).",
                f"Set model.numbers={numbers} 'model.categories=[{values}]'.",
            )


class Mlp(nn.Module):
    """Fully connected layers with GELU between them, one output."""

    def __init__(self, inputs: int = 10, width: int = 64, depth: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.Dropout(dropout)) for a, b in pairwise(sizes)
        )
        self.head = nn.Linear(sizes[-1], 1)

    def forward(self, rows: Tensor) -> Tensor:
        """One number per row."""
        for layer in self.layers:
            rows = layer(rows)
        return self.head(rows).squeeze(-1)


class MixedMlp(nn.Module):
    """Fully connected layers over numbers and embedded categories, with a way around each."""

    def __init__(
        self,
        numbers: int,
        categories: list[int],
        width: int = 256,
        depth: int = 3,
        embedding: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.numbers, self.categories = numbers, list(categories)
        self.embeddings = nn.ModuleList(nn.Embedding(count, embedding) for count in categories)
        self.stem = nn.Linear(numbers + embedding * len(categories), width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """One number per row."""
        embedded = [embed(codes[:, column]) for column, embed in enumerate(self.embeddings)]
        rows = self.stem(torch.cat([numbers, *embedded], dim=1))
        for layer in self.layers:
            rows = rows + layer(rows)
        return self.head(rows).squeeze(-1)


def table(
    split: str,
    path: str,
    target: str,
    numeric: list[str] | None = None,
    categories: list[str] | None = None,
    ignore: list[str] | None = None,
    rare: int = 1,
    val_fraction: float = 0.05,
    test_fraction: float = 0.1,
    seed: int = 0,
    encoding: str | None = None,
    skip_unreadable: int = 0,
    cache: str | None = None,
) -> PreparedDataset | None:
    """Rows of a CSV, TSV, JSONL or Parquet file, or of a folder with one for each split."""
    splits = Splits(
        sources=tables.by_split(path, encoding=encoding),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    columns = Columns(target=target, numeric=numeric, categories=categories, ignore=ignore, rare=rare)
    prepared = Prepared(splits=splits, preparation=columns, cache=cache, skip_unreadable=skip_unreadable)
    return prepared.dataset(split)


def diabetes(split: str, val_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0) -> TensorDataset:
    """442 rows of 10 standardised measurements and a target, scaled by the training split's mean and deviation."""
    features = torch.from_numpy(bundled("diabetes_data_raw.csv.gz", delimiter=None)).float()
    targets = torch.from_numpy(bundled("diabetes_target.csv.gz")).float()
    train = split_indices("train", len(targets), val_fraction, test_fraction, seed)
    chosen = split_indices(split, len(targets), val_fraction, test_fraction, seed)
    features = (features - features[train].mean(dim=0)) / features[train].std(dim=0)
    targets = (targets - targets[train].mean()) / targets[train].std()
    return TensorDataset(features[chosen], targets[chosen])
