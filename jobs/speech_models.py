"""Networks for recordings: convolutions over time, under a classifier or under CTC."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu


class _Block(nn.Module):
    """Each band over some time, then all bands at each time, and a way around both."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.over_time = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames of the same shape; what lies behind the end of a recording never comes in."""
        hidden = (self.norm(frames) * mask).transpose(1, 2)
        hidden = self.over_time(hidden).transpose(1, 2)
        return frames + self.dropout(self.down(gelu(self.up(hidden))))


class Encoder(nn.Module):
    """From frames x bands to half as many frames x width."""

    def __init__(self, bands: int, width: int, blocks: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Conv1d(bands, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(_Block(width, kernel, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden frames, and which of them there are (1) or are padding (0)."""
        frames = self.stem(features.transpose(1, 2)).transpose(1, 2)
        places = torch.arange(frames.shape[1], device=frames.device)
        mask = (places[None] < halved(lengths)[:, None]).unsqueeze(-1).to(frames.dtype)
        for block in self.blocks:
            frames = block(frames, mask)
        return self.norm(frames) * mask, mask


def halved(lengths: Tensor) -> Tensor:
    """Lengths after the encoder."""
    return (lengths + 1) // 2


class KeywordNet(nn.Module):
    """One class for each recording: the mean of its hidden frames decides."""

    def __init__(
        self,
        classes: int = 10,
        bands: int = 40,
        width: int = 96,
        blocks: int = 4,
        kernel: int = 9,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(bands, width, blocks, kernel, dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits, one per class."""
        frames, mask = self.encoder(features, lengths)
        return self.head(frames.sum(dim=1) / mask.sum(dim=1))


class CtcNet(nn.Module):
    """Logits of each token, or of none, at each hidden frame."""

    def __init__(
        self, tokens: int, bands: int = 40, width: int = 144, blocks: int = 6, kernel: int = 11, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.encoder = Encoder(bands, width, blocks, kernel, dropout)
        self.head = nn.Linear(width, tokens)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Batch x frames x tokens."""
        frames, _ = self.encoder(features, lengths)
        return self.head(frames)
