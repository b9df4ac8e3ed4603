"""Image classification: a small ResNet on scikit-learn's handwritten digits (8 x 8 pixels, 10 classes).

Train it:  orchestrator train job=digits cluster.workers=2 strategy=zero2
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.data import TensorDataset

from jobs.splits import split_indices
from orchestrator import Task


class ImageClassification(Task):
    """One class per image; batches are (images, labels)."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Summed cross entropy."""
        images, labels = batch
        return cross_entropy(model(images), labels, reduction="sum")

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Summed loss and number of images classified rightly."""
        images, labels = batch
        logits = model(images)
        return {
            "loss": cross_entropy(logits, labels, reduction="sum"),
            "accuracy": (logits.argmax(dim=1) == labels).sum(),
        }


class Block(nn.Module):
    """Two convolutions and a way around them. GroupNorm needs no batch statistics, so worker count changes nothing."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, outputs)
        self.dropout = nn.Dropout(dropout)
        self.around = (
            nn.Identity()
            if (inputs, stride) == (outputs, 1)
            else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features of the same kind, perhaps at half the resolution."""
        hidden = self.dropout(relu(self.norm1(self.conv1(images))))
        return relu(self.norm2(self.conv2(hidden)) + self.around(images))


class SmallResNet(nn.Module):
    """A ResNet for small images: `blocks` at full resolution, then as many at half with twice the width."""

    def __init__(
        self, width: int = 16, blocks: int = 2, classes: int = 10, channels: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"model.width={width} must be a multiple of 4, the number of normalisation groups")
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        shapes = [(width, width, 1)] * blocks + [(width, 2 * width, 2)] + [(2 * width, 2 * width, 1)] * (blocks - 1)
        self.blocks = nn.ModuleList(Block(inputs, outputs, stride, dropout) for inputs, outputs, stride in shapes)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, one per class."""
        hidden = relu(self.stem(images))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.mean(dim=(2, 3)))


def digits(split: str, val_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0) -> TensorDataset:
    """1,797 handwritten digits as (1 x 8 x 8 image in [0, 1], class)."""
    from sklearn.datasets import load_digits

    source = load_digits()
    chosen = split_indices(split, len(source.target), val_fraction, test_fraction, seed)
    images = torch.tensor(source.images[chosen], dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(images, torch.tensor(source.target[chosen], dtype=torch.long))
