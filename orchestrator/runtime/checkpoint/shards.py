"""Training state in files: named tensors, of which every worker writes the runs of elements that it holds.

A checkpoint's folder:

    rank-00000.safetensors   what rank 0 holds, as flat tensors
    rank-00000.json          which tensors those are: name, whole shape, first element, part of a cut tensor
    manifest.json            step, world size and what else was known when it was saved
    SHA256SUMS               of all the others, so that `sha256sum -c SHA256SUMS` checks it; written last

Names say what a tensor is, not who held it, so any number of workers reads what it needs under any strategy:
`model/<parameter>`, `optimizer/<state>/<parameter>`, `buffers/<data rank>/<buffer>`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
FORMAT = 1
CHUNK = 16 * 2**20
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""safetensors' names of number formats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A part of a tensor, cut along one dimension (by tensor parallelism)."""

    dim: int
    start: int
    size: int

    def of(self, whole: Tensor) -> Tensor:
        """The same part of a whole tensor, as a view."""
        return whole.narrow(self.dim, self.start, self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A run of a tensor's elements."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    values: Tensor
    """One-dimensional."""
    begin: int = 0
    """Number of the first element in the flattened tensor, or in the flattened box."""
    box: Box | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIndex:
    """What one rank wrote."""

    size: int
    sha256: str
    tensors: dict[str, dict[str, Any]]
    """Per name: dtype, shape, begin, end, box."""
    scalars: dict[str, dict[str, Any]]
    """Numbers of the optimizer that are no tensors of a parameter's shape, as step counts."""

    def to_json(self) -> str:
        """As text."""
        data = {"size": self.size, "sha256": self.sha256, "tensors": self.tensors, "scalars": self.scalars}
        return json.dumps(data, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ShardIndex:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def shard_name(rank: int) -> str:
    """File of one rank's tensors."""
    return f"rank-{rank:05d}.safetensors"


def index_name(rank: int) -> str:
    """File that says what is in them."""
    return f"rank-{rank:05d}.json"


# --- writing ---------------------------------------------------------------------------------------------------------


def write_shard(path: Path, pieces: Sequence[Piece], scalars: Mapping[str, dict[str, Any]]) -> ShardIndex:
    """Write a rank's pieces to a file and to the disk under it; what to write into its index."""
    flat = {piece.name: piece.values for piece in pieces}
    digest, size = write_tensors(path, {name: (values.dtype, values.shape) for name, values in flat.items()}, flat.get)
    return ShardIndex(
        size=size,
        sha256=digest,
        tensors={
            piece.name: {
                "dtype": DTYPES[piece.values.dtype],
                "shape": list(piece.shape),
                "begin": piece.begin,
                "end": piece.begin + piece.values.numel(),
                "box": [piece.box.dim, piece.box.start, piece.box.size] if piece.box else None,
            }
            for piece in pieces
        },
        scalars=dict(scalars),
    )


def write_tensors(
    path: Path,
    layout: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    fetch: Callable[[str], Tensor | None],
    metadata: Mapping[str, str] | None = None,
) -> tuple[str, int]:
    """Write a safetensors file one tensor at a time, as `fetch(name)` gives them; its SHA-256 and size.

    The library's own writer wants all tensors at once and copies each.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata or {})} if metadata else {}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    hashed = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        _put(file, memoryview(len(text).to_bytes(8, "little") + text), hashed)
        for name in layout:
            tensor = fetch(name)
            if tensor is not None and tensor.numel():
                raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
                _put(file, raw.numpy().data, hashed)
        size = file.tell()
        os.fsync(file.fileno())
    return hashed.hexdigest(), size


def _put(file: Any, data: memoryview, hashed: Any) -> None:
    for start in range(0, len(data), CHUNK):
        left = data[start : start + CHUNK]
        hashed.update(left)
        while left:  # a disk that fills up takes a part, and tells the reason only at the next write
            left = left[file.write(left) :]


def sums_text(sums: Mapping[str, str]) -> str:
    """The content of SHA256SUMS."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def parse_sums(text: str) -> dict[str, str]:
    """Digests by file name; empty when the text is not what `sums_text` writes."""
    pairs = [line.split("  ", 1) for line in text.removesuffix("\n").split("\n")]
    sums = {pair[-1]: pair[0] for pair in pairs}
    return sums if sums_text(sums) == text else {}


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Where some elements of a tensor lie."""

    file: str
    begin: int
    end: int
    box: Box | None


@dataclass(kw_only=True, slots=True)
class _Entry:
    """One tensor, from all files that hold some of it."""

    dtype: str
    shape: tuple[int, ...]
    parts: list[_Part] = field(default_factory=list)


class ShardReader:
    """A verified checkpoint's tensors. `fetch(file)` gives a local path; only files that are needed are asked for."""

    def __init__(self, manifest: Mapping[str, Any], fetch: Callable[[str], Path]) -> None:
        self.manifest = manifest
        self._fetch = fetch
        self._entries: dict[str, _Entry] = {}
        self._files: dict[str, Any] = {}
        self.scalars: dict[str, dict[str, Any]] = {}
        for rank in range(manifest["world_size"]):
            index = ShardIndex.from_json(fetch(index_name(rank)).read_text())
            self.scalars.update(index.scalars)
            for name, found in index.tensors.items():
                entry = self._entries.setdefault(name, _Entry(dtype=found["dtype"], shape=tuple(found["shape"])))
                box = Box(dim=found["box"][0], start=found["box"][1], size=found["box"][2]) if found["box"] else None
                entry.parts.append(_Part(file=shard_name(rank), begin=found["begin"], end=found["end"], box=box))

    def names(self, prefix: str = "") -> list[str]:
        """All tensors whose name begins so."""
        return [name for name in self._entries if name.startswith(prefix)]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """A whole tensor's shape."""
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's number format."""
        return next(dtype for dtype, known in DTYPES.items() if known == self._entries[name].dtype)

    def whole(self, name: str, box: Box | None = None) -> Tensor:
        """A tensor, or a part of it, in its shape."""
        entry = self._entries[name]
        boxes = {part.box for part in entry.parts}
        if boxes == {None}:
            flat = self._flat(name, entry.parts, 0, math.prod(entry.shape))
            whole = flat.view(entry.shape)
            return box.of(whole) if box else whole
        if box in boxes:
            return self._boxed(name, entry, box)
        whole = torch.empty(entry.shape, dtype=self.dtype(name))
        for each in boxes:
            if each:
                each.of(whole).copy_(self._boxed(name, entry, each))
        return box.of(whole) if box else whole

    def elements(self, name: str, begin: int, end: int, box: Box | None = None) -> Tensor:
        """Some elements of the flattened tensor, or of its flattened part; reads no others where it can."""
        entry = self._entries[name]
        fitting = [part for part in entry.parts if part.box == box]
        if fitting:
            return self._flat(name, fitting, begin, end)
        return self.whole(name, box).reshape(-1)[begin:end]

    def _boxed(self, name: str, entry: _Entry, box: Box | None) -> Tensor:
        shape = list(entry.shape)
        if box:
            shape[box.dim] = box.size
        parts = [part for part in entry.parts if part.box == box]
        return self._flat(name, parts, 0, math.prod(shape)).view(shape)

    def _flat(self, name: str, parts: Iterable[_Part], begin: int, end: int) -> Tensor:
        found = torch.empty(end - begin, dtype=self.dtype(name))
        filled = 0
        for part in parts:
            start, stop = max(begin, part.begin), min(end, part.end)
            if start < stop:
                run = self._open(part.file).get_slice(name)[start - part.begin : stop - part.begin]
                found[start - begin : stop - begin] = run
                filled += stop - start
        if filled != end - begin:
            raise ValueError(f"the checkpoint holds {filled} of {end - begin} elements of {name}")
        return found

    def _open(self, name: str) -> Any:
        from safetensors import safe_open

        if name not in self._files:
            self._files[name] = safe_open(self._fetch(name), framework="pt")
        return self._files[name]
