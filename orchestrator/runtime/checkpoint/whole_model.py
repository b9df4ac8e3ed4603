"""A checkpoint's model in one piece: weights and buffers under the names of its state dict, whoever held them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.runtime.checkpoint.shards import ShardReader, write_tensors
from orchestrator.runtime.checkpoint.states import mean_buffer


class WholeModel:
    """Reads one tensor at a time, so that models larger than memory can be copied."""

    def __init__(self, reader: ShardReader, dtype: torch.dtype | None = torch.float32) -> None:
        """`dtype`: of all floating-point weights; None leaves each as it was saved. Buffers always stay as they are."""
        self._reader = reader
        self._dtype = dtype
        weights = [name.removeprefix("model/") for name in reader.names("model/")]
        buffers = [name.removeprefix("buffers/0/") for name in reader.names("buffers/0/")]
        aliases: Mapping[str, str] = reader.manifest["aliases"]
        kept = {*weights, *buffers}
        self._sources = {name: name for name in (*weights, *buffers)} | {
            alias: name for alias, name in aliases.items() if name in kept
        }
        self._weights = set(weights)

    @property
    def layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Number format and shape of each tensor."""
        return {name: self._describe(source) for name, source in sorted(self._sources.items())}

    @property
    def parameters(self) -> int:
        """Numbers in its weights; shared ones count once."""
        return sum(math.prod(self._reader.shape(f"model/{name}")) for name in self._weights)

    def fetch(self, name: str) -> Tensor:
        """One tensor in full."""
        source = self._sources[name]
        if source in self._weights:
            return self._reader.whole(f"model/{source}").to(self._describe(source)[0])
        return mean_buffer(self._reader, source)

    def write(self, path: Path) -> None:
        """As a safetensors file."""
        write_tensors(path, self.layout, self.fetch, {"format": "pt"})

    def _describe(self, source: str) -> tuple[torch.dtype, tuple[int, ...]]:
        name = f"model/{source}" if source in self._weights else f"buffers/0/{source}"
        dtype = self._reader.dtype(name)
        if source in self._weights and self._dtype is not None and dtype.is_floating_point:
            dtype = self._dtype
        return dtype, self._reader.shape(name)
