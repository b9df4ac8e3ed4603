"""Networks for recordings: convolutions over time, under a classifier or under CTC; a conformer; Wav2Vec2.

One for CTC has `frames` beside `forward`: how many frames there are for recordings of these lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu, pad, scaled_dot_product_attention, silu

from orchestrator.errors import ConfigError


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


class _FeedForward(nn.Sequential):
    """Two layers at each time."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )


class _Attention(nn.Module):
    """Each time looks at all others of its recording."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What each takes from the others."""
        parts = self.inputs(self.norm(frames)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*parts.unbind(), attn_mask=mask.bool().transpose(1, 2).unsqueeze(1))
        return self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))


class _Convolution(nn.Module):
    """Each channel over some time, let through by a gate. LayerNorm needs no batch statistics."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * width)
        self.over_time = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.after = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What each time takes from those around it; what lies behind the end of a recording never comes in."""
        hidden = (glu(self.gated(self.norm(frames))) * mask).transpose(1, 2)
        hidden = silu(self.after(self.over_time(hidden).transpose(1, 2)))
        return self.dropout(self.output(hidden))


class _ConformerBlock(nn.Module):
    """Half a feed-forward part, attention, convolution, and the other half, each added to what came in."""

    def __init__(self, width: int, heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.before = _FeedForward(width, dropout)
        self.attention = _Attention(width, heads, dropout)
        self.convolution = _Convolution(width, kernel, dropout)
        self.behind = _FeedForward(width, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames of the same shape."""
        frames = frames + self.before(frames) / 2
        frames = frames + self.attention(frames, mask)
        frames = frames + self.convolution(frames, mask)
        return self.norm(frames + self.behind(frames) / 2)


class Encoder(nn.Module):
    """From frames x bands to half as many frames x width, by a number of blocks that `make` makes."""

    def __init__(self, bands: int, width: int, blocks: int, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.bands = bands
        self.stem = nn.Conv1d(bands, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(make() for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden frames, and which of them there are (1) or are padding (0)."""
        if features.dim() != 3 or features.shape[-1] != self.bands:
            raise ConfigError(
                f"The model takes {self.bands} log-mel bands, and the data has {_kind(features)}.",
                "Set data.features=log_mel, and data.bands and model.bands to the same number.",
            )
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
        self.encoder = Encoder(bands, width, blocks, partial(_Block, width, kernel, dropout))
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits, one per class."""
        frames, mask = self.encoder(features, lengths)
        return self.head(frames.sum(dim=1) / mask.sum(dim=1))


class _Ctc(nn.Module):
    """Logits of each token, or of none, at each hidden frame."""

    def __init__(self, encoder: Encoder, width: int, tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, tokens)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Batch x frames x tokens."""
        frames, _ = self.encoder(features, lengths)
        return self.head(frames)

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames of recordings of these lengths."""
        return halved(lengths)


class CtcNet(_Ctc):
    """Convolutions alone."""

    def __init__(
        self, tokens: int, bands: int = 40, width: int = 144, blocks: int = 6, kernel: int = 11, dropout: float = 0.1
    ) -> None:
        super().__init__(Encoder(bands, width, blocks, partial(_Block, width, kernel, dropout)), width, tokens)


class Conformer(_Ctc):
    """Convolutions for what is near and self-attention for what is far. Where a frame is, the convolutions tell."""

    def __init__(
        self,
        tokens: int,
        bands: int = 40,
        width: int = 144,
        blocks: int = 4,
        heads: int = 4,
        kernel: int = 15,
        dropout: float = 0.1,
    ) -> None:
        if width % heads:
            raise ValueError(f"model.width={width} must be a multiple of model.heads={heads}")
        make = partial(_ConformerBlock, width, heads, kernel, dropout)
        super().__init__(Encoder(bands, width, blocks, make), width, tokens)


class Wav2Vec2(nn.Module):
    """Wav2Vec2 under CTC: with weights of its own, from transformers' config, or pretrained ones in a local folder.

    It takes waveforms (data.features=waveform), and has a frame for each 320 samples.
    """

    def __init__(
        self,
        tokens: int,
        folder: str | None = None,
        channels: int = 128,
        width: int = 192,
        blocks: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

        # All workers pass all layers, and what is left out at random follows from torch's numbers alone.
        always: dict[str, Any] = {
            "vocab_size": tokens,
            "layerdrop": 0.0,
            "apply_spec_augment": False,
            "mask_time_prob": 0.0,
            "attn_implementation": "sdpa",
        }
        if folder is not None:
            self.model: Any = Wav2Vec2ForCTC.from_pretrained(
                folder, local_files_only=True, ignore_mismatched_sizes=True, **always
            )
        else:
            config: Any = Wav2Vec2Config(
                conv_dim=[channels] * 7,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=blocks,
                num_attention_heads=heads,
                num_conv_pos_embeddings=32,
                num_conv_pos_embedding_groups=heads,
                # Normalised frame by frame, so that what fills up a batch changes nothing.
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
                hidden_dropout=dropout,
                attention_dropout=dropout,
                activation_dropout=dropout,
                feat_proj_dropout=dropout,
                final_dropout=dropout,
                **always,
            )
            self.model = Wav2Vec2ForCTC(config)
        self.shortest = 1
        for kernel, stride in zip(
            *map(reversed, (self.model.config.conv_kernel, self.model.config.conv_stride)), strict=True
        ):
            self.shortest = (self.shortest - 1) * stride + kernel

    def forward(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Batch x frames x tokens."""
        if waves.dim() != 2:
            raise ConfigError(
                f"The model takes waveforms, and the data has {_kind(waves)}.", "Set data.features=waveform."
            )
        waves = pad(waves, (0, max(0, self.shortest - waves.shape[1])))
        places = torch.arange(waves.shape[1], device=waves.device)
        there = places[None] < lengths.clamp(min=self.shortest)[:, None]
        return self.model(waves, attention_mask=there.long()).logits

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames of recordings of these lengths."""
        return self.model._get_feat_extract_output_lengths(lengths.clamp(min=self.shortest))


def _kind(features: Tensor) -> str:
    return "waveforms" if features.dim() == 2 else f"{features.shape[-1]} log-mel bands"
