"""Image classification: scikit-learn's handwritten digits (8 x 8 pixels, 10 classes), or folders of photos.

Train it:  orchestrator train job=digits cluster.workers=2 strategy=zero2
           orchestrator train job=photos data.path=photos model.classes=10 cluster.workers=2
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.data import TensorDataset

from orchestrator import Task
from orchestrator.data.images import Images, Randomly
from orchestrator.data.prepared import Prepared, PreparedDataset
from orchestrator.data.readers import files
from orchestrator.data.records import Splits
from orchestrator.errors import ConfigError
from orchestrator.jobs.bundled import bundled
from orchestrator.jobs.splits import split_indices
from orchestrator.runtime.worker.evaluation.answers import of_batch


class ImageClassification(Task):
    """One class per image; batches are (images, labels)."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Summed cross entropy."""
        images, labels = batch
        return class_loss(model(images), labels)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Summed loss and number of images classified rightly."""
        images, labels = batch
        logits = model(images)
        return {
            "loss": class_loss(logits, labels),
            "accuracy": (logits.argmax(dim=1) == labels).sum(),
        }

    def show(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Each image's class, and what the model takes it for."""
        images, labels = batch
        return of_batch(labels, model(images))


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross entropy; a label that the model has no output for is refused."""
    try:
        return cross_entropy(logits, labels, reduction="sum")
    except IndexError as error:
        raise ConfigError(
            f"The data has at least {int(labels.max()) + 1} classes, and the model tells {logits.shape[1]} apart.",
            "Set model.classes to their number (orchestrator preprocess ... shows it).",
        ) from error


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


def photos(
    split: str,
    path: str,
    size: int = 32,
    channels: Literal[1, 3] = 3,
    fit: Literal["crop", "squash"] = "crop",
    shift: int = 0,
    flip: bool = False,
    hide: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
    skip_unreadable: int = 0,
    cache: str | None = None,
) -> PreparedDataset | None:
    """Photos in class folders, or listed in a manifest, all at one size; `shift`, `flip`, `hide`: when training."""
    splits = Splits(
        sources=files.by_split(path, files.IMAGES),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    prepared = Prepared(
        splits=splits,
        preparation=Images(size=size, channels=channels, fit=fit),
        augment=Randomly(shift=shift, flip=flip, hide=hide),
        cache=cache,
        skip_unreadable=skip_unreadable,
    )
    return prepared.dataset(split)


def digits(split: str, val_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0) -> TensorDataset:
    """1,797 handwritten digits as (1 x 8 x 8 image in [0, 1], class)."""
    rows = torch.from_numpy(bundled("digits.csv.gz"))
    chosen = split_indices(split, len(rows), val_fraction, test_fraction, seed)
    images = rows[chosen, :-1].float().reshape(-1, 1, 8, 8) / 16
    return TensorDataset(images, rows[chosen, -1].long())
