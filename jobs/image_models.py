"""Networks for photos: ResNets, an Inception-style one, and ViT and ConvNeXt from transformers' configs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

GROUPS = 8
"""GroupNorm needs no batch statistics, so that the number of workers changes nothing."""


class _Conv(nn.Sequential):
    """A convolution, normalised."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False),
            nn.GroupNorm(GROUPS, outputs),
        )


class _Residual(nn.Module):
    """Convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.around = nn.Identity() if (inputs, stride) == (outputs, 1) else _Conv(inputs, outputs, 1, stride)
        # At first each block passes on what it got, which lets deep networks learn from the start.
        last = [module for module in body.modules() if isinstance(module, nn.GroupNorm)][-1]
        nn.init.zeros_(last.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Features of the same kind, perhaps at half the resolution."""
        return relu(self.body(images) + self.around(images))


def _basic(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    body = nn.Sequential(_Conv(inputs, width, 3, stride), nn.ReLU(), _Conv(width, width, 3))
    return _Residual(inputs, width, stride, body), width


def _bottleneck(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    outputs = 4 * width
    narrow = nn.Sequential(_Conv(inputs, width, 1), nn.ReLU(), _Conv(width, width, 3, stride), nn.ReLU())
    body = nn.Sequential(*narrow, _Conv(width, outputs, 1))
    return _Residual(inputs, outputs, stride, body), outputs


class ResNet(nn.Module):
    """ResNet-18 and -50, and narrower or shallower ones; for small photos (32 pixels) without the early halving."""

    LAYOUTS = {10: (_basic, (1, 1, 1, 1)), 18: (_basic, (2, 2, 2, 2)), 50: (_bottleneck, (3, 4, 6, 3))}

    def __init__(
        self, depth: int = 18, classes: int = 10, width: int = 64, small: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if depth not in self.LAYOUTS:
            raise ValueError(f"model.depth={depth} must be one of {', '.join(map(str, self.LAYOUTS))}")
        if width % GROUPS:
            raise ValueError(f"model.width={width} must be a multiple of {GROUPS}, the number of normalisation groups")
        make, counts = self.LAYOUTS[depth]
        stem = [_Conv(3, width, 3)] if small else [_Conv(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        self.stem = nn.Sequential(*stem, nn.ReLU())
        self.blocks = nn.ModuleList()
        features = width
        for stage, count in enumerate(counts):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                made, features = make(features, width * 2**stage, stride)
                self.blocks.append(made)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, one per class."""
        hidden = self.stem(images)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.dropout(hidden.mean(dim=(2, 3))))


class _Inception(nn.Module):
    """Four ways to look at the same features, side by side: points, small, larger, and pooled."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        part = outputs // 4
        self.point = _Conv(inputs, part, 1)
        self.small = nn.Sequential(_Conv(inputs, part, 1), nn.ReLU(), _Conv(part, part, 3))
        self.large = nn.Sequential(
            _Conv(inputs, part, 1), nn.ReLU(), _Conv(part, part, 3), nn.ReLU(), _Conv(part, part, 3)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), _Conv(inputs, part, 1))

    def forward(self, images: Tensor) -> Tensor:
        """All four, as channels."""
        return relu(torch.cat([self.point(images), self.small(images), self.large(images), self.pooled(images)], dim=1))


class Inception(nn.Module):
    """Stages of inception blocks, each at half the resolution and twice the width of the one before."""

    def __init__(
        self, classes: int = 10, width: int = 64, stages: int = 3, blocks: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % (4 * GROUPS):
            raise ValueError(
                f"model.width={width} must be a multiple of {4 * GROUPS}, four ways in {GROUPS} groups each"
            )
        self.stem = nn.Sequential(_Conv(3, width, 3), nn.ReLU())
        self.blocks = nn.ModuleList()
        features = width
        for stage in range(stages):
            for _ in range(blocks):
                self.blocks.append(_Inception(features, width * 2**stage))
                features = width * 2**stage
            if stage + 1 < stages:
                self.blocks.append(nn.MaxPool2d(2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, one per class."""
        hidden = self.stem(images)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.dropout(hidden.mean(dim=(2, 3))))


class _Logits(nn.Module):
    """A transformers model that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits, one per class."""
        return self.model(images).logits


def vit(
    classes: int = 10,
    size: int = 32,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    dropout: float = 0.0,
) -> nn.Module:
    """A vision transformer with weights of its own, from transformers' config."""
    from transformers import ViTConfig, ViTForImageClassification

    config: Any = ViTConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        hidden_dropout_prob=dropout,
        num_labels=classes,
        attn_implementation="sdpa",
    )
    return _Logits(ViTForImageClassification(config))


def convnext(classes: int = 10, width: int = 48, depths: list[int] | None = None, patch: int = 2) -> nn.Module:
    """A ConvNeXt with weights of its own, from transformers' config; its width doubles from stage to stage."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    depths = depths or [2, 2, 4, 2]
    config: Any = ConvNextConfig(
        depths=depths,
        hidden_sizes=[width * 2**stage for stage in range(len(depths))],
        num_stages=len(depths),
        patch_size=patch,
        num_labels=classes,
    )
    return _Logits(ConvNextForImageClassification(config))
