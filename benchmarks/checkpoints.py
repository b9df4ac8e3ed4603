"""Saving a gigabyte of training state: how long training waits, against a plain `engine.save_checkpoint`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Result

WORKER = Path(__file__).parent / "peers" / "checkpoint_worker.py"


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """Both figures of the same saves; one process, since what counts is the memory and the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    torchrun = str(Path(sys.executable).parent / "torchrun")
    command = [torchrun, "--standalone", "--nproc-per-node", "1", str(WORKER), str(folder), str(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    rounds = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    measured = [(each["ours"], each["peer"]) for each in rounds]
    what = f"saving {rounds[0]['bytes'] / 1e9:.2f} GB of state"
    against = "engine.save_checkpoint"
    return [
        Result(
            name="blocked",
            what=f"{what}: s waited, {against}",
            figure="blocked_s",
            target="<= 0.25",
            pairs=measured,
        ),
        Result(
            name="total", what=f"{what}: s until it counts, {against}", figure="total_s", target="none", pairs=measured
        ),
    ]
