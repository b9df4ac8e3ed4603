"""Optimizer states that DeepSpeed keeps in files on a disk (zero3_nvme): their folder, seeing and changing them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.cluster.doctor import async_io
from orchestrator.errors import MachineError
from orchestrator.plans.types import Row
from orchestrator.runtime.worker.context import Launch


@contextmanager
def own_folder(row: Row, launch: Launch, rank: int) -> Iterator[Row]:
    """The row with a folder of this attempt's own for what it keeps on a disk; cleared away in the end.

    What killed attempts of the run left there goes, too. Rows that keep nothing on a disk are left as they are.
    """
    zero = row.deepspeed["zero_optimization"]
    offload = zero.get("offload_optimizer", {})
    if offload.get("device") != "nvme":
        yield row
        return
    _require_async_io()
    run = Path(offload["nvme_path"]).expanduser() / launch.run_id
    folder = run / f"attempt-{launch.attempt}"
    _make(folder, offload["nvme_path"])
    for other in run.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    offload = {**offload, "nvme_path": str(folder)}
    try:
        yield dataclasses.replace(
            row, deepspeed={**row.deepspeed, "zero_optimization": {**zero, "offload_optimizer": offload}}
        )
    finally:
        _clear(folder, rank)


def _require_async_io() -> None:
    missing = async_io.lacking()
    if missing:
        raise MachineError(
            f"strategy=zero3_nvme cannot run on this node: {', '.join(missing)} missing, with which DeepSpeed compiles "
            "its way to the disk.",
            "Install them (apt install libaio-dev g++; pip install ninja), or set strategy=zero3_offload.",
        )
    # torch looks for ninja among the programs; the environment's own need not be among them.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"


def _make(folder: Path, given: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"strategy.nvme_path={given} cannot be written on this node: {error.strerror}.",
            "Name a folder on a disk of every node that workers may write to.",
        ) from error


def _clear(folder: Path, rank: int) -> None:
    """Remove this worker's files, and the folders once the others' are gone as well."""
    mine = folder / "zero_stage_3" / "optimizer" / f"rank{rank}"
    shutil.rmtree(mine, ignore_errors=True)
    for empty in (mine.parent, mine.parent.parent, folder, folder.parent):
        with contextlib.suppress(OSError):
            empty.rmdir()


class Swapped:
    """The files behind the tensors of a ZeRO 3 optimizer; of any other optimizer there are none."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._swapper = getattr(optimizer, "optimizer_swapper", None)

    def seen(self, tensor: Tensor) -> Tensor:
        """A tensor with its numbers: itself, or its file mapped into memory to be read."""
        for info in self._swapper.swap_params_info.values() if self._swapper else ():
            for context in info.tensors:
                if context.compute_tensor is tensor:
                    return torch.from_file(context.swap_path, shared=False, size=info.numel(), dtype=info.dtype())
        return tensor

    def forget_states(self) -> None:
        """Let go of all states but the weights, to take up others."""
        if self._swapper:
            self._swapper.purge_state()

    @contextmanager
    def brought_in(self, flat: Tensor) -> Iterator[None]:
        """A group's weights and states in memory for the time of a block, and their files written anew after it."""
        groups = getattr(self._optimizer, "fp32_partitioned_groups_flat", ()) if self._swapper else ()
        group = next((number for number, each in enumerate(groups) if each is flat), None)
        if group is None or not self._optimizer._swappable_optimizer_subgroup(group):
            yield
            return
        self._optimizer._optimizer_states_and_gradient_swap_in(group)
        yield
        self._optimizer._optimizer_states_and_gradient_swap_out(group)
