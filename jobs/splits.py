"""Cutting a dataset into train, val and test."""

from __future__ import annotations

import torch


def split_indices(split: str, size: int, val_fraction: float, test_fraction: float, seed: int) -> list[int]:
    """Indices of one split; for one seed the three are disjoint and together complete."""
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must be 0 or more, "
            "and leave something to train on"
        )
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    test = round(size * test_fraction)
    val = round(size * val_fraction)
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}[split]
