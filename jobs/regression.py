"""Regression on a table: an MLP on scikit-learn's diabetes data (442 people, 10 measurements, disease progression).

Train it:  orchestrator train job=diabetes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

from jobs.splits import split_indices
from orchestrator import Task


class Regression(Task):
    """One number per row; batches are (rows, targets)."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Summed squared error."""
        rows, targets = batch
        return mse_loss(model(rows), targets, reduction="sum")

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """What MAE, RMSE and R2 are made of."""
        rows, targets = batch
        error = model(rows) - targets
        return {
            "squared_error": error.square().sum(),
            "absolute_error": error.abs().sum(),
            "targets": targets.sum(),
            "squared_targets": targets.square().sum(),
        }

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


def diabetes(split: str, val_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0) -> TensorDataset:
    """442 rows of 10 standardised measurements and a target, scaled by the training split's mean and deviation."""
    from sklearn.datasets import load_diabetes

    source = load_diabetes(scaled=False)
    features = torch.tensor(source.data, dtype=torch.float32)
    targets = torch.tensor(source.target, dtype=torch.float32)
    train = split_indices("train", len(targets), val_fraction, test_fraction, seed)
    chosen = split_indices(split, len(targets), val_fraction, test_fraction, seed)
    features = (features - features[train].mean(dim=0)) / features[train].std(dim=0)
    targets = (targets - targets[train].mean()) / targets[train].std()
    return TensorDataset(features[chosen], targets[chosen])
