"""Files of named tensors: written in runs, read in any other cut, in any number format."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.runtime.checkpoint.shards import (
    DTYPES,
    Box,
    Piece,
    ShardReader,
    index_name,
    sha256_of,
    shard_name,
    write_shard,
    write_tensors,
)


def written(folder: Path, *ranks: list[Piece]) -> ShardReader:
    for rank, pieces in enumerate(ranks):
        index = write_shard(folder / shard_name(rank), pieces, {})
        (folder / index_name(rank)).write_text(index.to_json())
    return ShardReader({"world_size": len(ranks)}, folder.joinpath)


def flat(name: str, whole: torch.Tensor, begin: int, end: int, box: Box | None = None) -> Piece:
    part = box.of(whole) if box else whole
    values = part.reshape(-1)[begin:end]
    return Piece(name=name, shape=tuple(whole.shape), values=values, begin=begin, box=box)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_format_comes_back_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = torch.randint(0, 2, (5, 3)).to(dtype)
    reader = written(tmp_path, [flat("w", whole, 0, 15)])
    assert reader.dtype("w") == dtype
    assert torch.equal(reader.whole("w"), whole)


def test_our_files_are_safetensors(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(7), "empty": torch.empty(0, 2), "c": torch.randn(5).half()}
    file = tmp_path / "x.safetensors"
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    digest, size = write_tensors(file, layout, tensors.get, {"format": "pt"})
    assert (digest, size) == (sha256_of(file), file.stat().st_size)
    found = load_file(file)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("cuts", [[0, 24], [0, 1, 24], [0, 7, 13, 24], [0, 8, 16, 24]])
def test_runs_of_any_length_make_the_whole_and_any_run_is_read_from_it(cuts: list[int], tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    reader = written(tmp_path, *[[flat("w", whole, a, b)] for a, b in pairwise(cuts)])
    assert torch.equal(reader.whole("w"), whole)
    for begin in range(24):
        assert torch.equal(reader.elements("w", begin, 24), whole.view(-1)[begin:])
    assert torch.equal(reader.whole("w", Box(dim=1, start=2, size=3)), whole[:, 2:5])


@pytest.mark.parametrize("dim", [0, 1])
def test_parts_cut_along_a_dimension_make_the_whole_and_other_parts(dim: int, tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    half = whole.shape[dim] // 2
    boxes = [Box(dim=dim, start=0, size=half), Box(dim=dim, start=half, size=half)]
    pieces = [[flat("w", whole, 0, 5, box)] for box in boxes] + [[flat("w", whole, 5, 12, box)] for box in boxes]
    reader = written(tmp_path, *pieces)
    assert torch.equal(reader.whole("w"), whole)
    assert torch.equal(reader.whole("w", boxes[1]), boxes[1].of(whole))
    assert torch.equal(reader.elements("w", 3, 9, boxes[0]), boxes[0].of(whole).reshape(-1)[3:9])
    other = Box(dim=1 - dim, start=1, size=2)
    assert torch.equal(reader.elements("w", 1, 4, other), other.of(whole).reshape(-1)[1:4])


def test_a_tensor_with_a_hole_in_it_is_refused(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    reader = written(tmp_path, [flat("w", whole, 0, 2)], [flat("w", whole, 3, 6)])
    with pytest.raises(ValueError, match="holds 5 of 6 elements of w"):
        reader.whole("w")
