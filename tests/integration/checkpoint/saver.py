"""Saves checkpoints with every file operation going wrong in turn; started by a test, with faults.so preloaded.

Imports cost seconds, so each try is a fork of this process. Prints one line of JSON per try.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from orchestrator.errors import OrchestratorError
from orchestrator.foundation.storage import LocalStore
from orchestrator.runtime.checkpoint.catalog import Progress
from orchestrator.runtime.checkpoint.checkpoint import Checkpoints, Retention, Snapshot
from orchestrator.runtime.checkpoint.shards import Piece

KINDS = {"crash": "crash", "short": "short", "ENOSPC": str(errno.ENOSPC), "EIO": str(errno.EIO)}


class Alone:
    """A gang of one."""

    def sum(self, values: list[float]) -> list[float]:
        """As they are."""
        return values

    def barrier(self) -> None:
        """Nobody to wait for."""


def checkpoints(folder: Path, attempt: int) -> Checkpoints:
    """With so little kept that old ones are removed in each save."""
    return Checkpoints(
        LocalStore(str(folder)),
        rank=0,
        world_size=1,
        attempt=attempt,
        gang=Alone(),
        retention=Retention(keep=1),
        asynchronous=False,
    )


def save(folder: Path, attempt: int, steps: range) -> None:
    """An attempt that saves at some steps."""
    saved = checkpoints(folder, attempt)
    saved.begin()
    for step in steps:
        piece = Piece(name="model/w", shape=(30_000,), values=torch.full((30_000,), float(step)))
        snapshot = Snapshot(pieces=[piece], scalars={}, about={"mesh": {"data": 1}, "scaler": {}, "aliases": {}})
        saved.save(Progress(step=step), snapshot)


def attempt_with_fault(folder: Path, kind: str, at: int) -> tuple[int, bool]:
    """How a forked attempt ended, and whether its fault came about."""
    child = os.fork()
    if not child:
        os.environ.update(FAULT_UNDER=str(folder), FAULT_KIND=kind, FAULT_AT=str(at))
        try:
            save(folder, 2, range(3, 5))
        except OrchestratorError:
            os._exit(3 if happened() else 4)
        os._exit(0 if not happened() else 2)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, code != 0


def happened() -> bool:
    """Whether the fault was reached."""
    return bool(ctypes.CDLL(None).fault_happened())


def loaded(folder: Path) -> dict[str, object]:
    """What the next attempt takes up: its step, and the numbers in it."""
    content: list[float] = []
    resumed = checkpoints(folder, 3)
    resumed.begin()
    found = resumed.load_newest(lambda reader: content.extend(set(reader.whole("model/w").tolist())))
    left = [path.name for path in folder.iterdir() if path.name.startswith(".writing")]
    return {"step": found.progress.step, "content": content, "passed_over": found.passed_over, "left": left}


def on_a_full_disk(folder: Path, options: str) -> dict[str, object]:
    """Save until a small file system is full, for good: none of what was there before may be lost."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    saves, last, told = folder / "saves", 0, ""
    try:
        for last in range(1, 10):
            (folder / f"beside-{last}").write_bytes(b"x" * 50_000)
            save(saves, 1, range(last, last + 1))
    except OrchestratorError as error:
        told = error.message
    except OSError as error:
        told = f"beside: {error.strerror}"
    for path in folder.glob("beside-*"):
        path.unlink()
    result = {"failed": last, "told": told, **loaded(saves)}
    subprocess.run(["umount", folder], check=True)
    return result


def main(root: Path, label: str, *options: str) -> None:
    """All faults of one kind; `once`: one save without any; `full`: file systems that are mounted with such options."""
    torch.set_num_threads(1)
    if label == "once":
        save(root / label, 1, range(1, 2))
        return
    if label == "full":
        for number, option in enumerate(options):
            print(json.dumps(on_a_full_disk(root / f"full-{number}", option)), flush=True)
        return
    at, reached = 0, True
    while reached:
        at += 1
        folder = root / f"{label}-{at}"
        save(folder, 1, range(1, 3))
        code, reached = attempt_with_fault(folder, KINDS[label], at)
        print(json.dumps({"at": at, "code": code, **loaded(folder)}), flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
