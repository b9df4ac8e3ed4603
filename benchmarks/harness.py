"""Interleaved pairs: ours, peer, ours, peer ... Machines are noisy, so what counts is the ratio inside a pair."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

Measurement = Mapping[str, float]
"""What one side of one pair gave: figures by name."""


@dataclass(kw_only=True)
class Result:
    """One benchmark's pairs."""

    name: str
    what: str
    figure: str
    """The figure whose ratio is reported."""
    target: str
    pairs: list[tuple[Measurement, Measurement]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Ours divided by the peer's, pair by pair."""
        return [ours[self.figure] / peer[self.figure] for ours, peer in self.pairs]

    def row(self) -> str:
        """One line of the table."""
        ours = statistics.median(pair[0][self.figure] for pair in self.pairs)
        peer = statistics.median(pair[1][self.figure] for pair in self.pairs)
        ratios = " ".join(_short(ratio) for ratio in self.ratios)
        median = statistics.median(self.ratios)
        return f"| {self.what} | {ours:.4g} | {peer:.4g} | {_short(median)} | {self.target} | {ratios} |"


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


HEADER = "| what | ours | peer | ratio (median) | target | ratio of each pair |\n| --- | --- | --- | --- | --- | --- |"


def interleave(
    count: int, ours: Callable[[], Measurement], peer: Callable[[], Measurement]
) -> list[tuple[Measurement, Measurement]]:
    """`count` pairs in the order A B A B, after one of each that is thrown away."""
    ours(), peer()
    pairs = []
    for number in range(count):
        pair = (ours(), peer())
        print(
            f"  pair {number + 1}: "
            + "   ".join(json.dumps({k: round(v, 5) for k, v in side.items()}) for side in pair),
            flush=True,
        )
        pairs.append(pair)
    return pairs


def keep(results: Sequence[Result], folder: Path) -> Path:
    """Write all raw figures as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    machine = {"cpus": os.cpu_count(), "machine": platform.platform(), "python": platform.python_version()}
    data = {"machine": machine, "results": [{**asdict(result), "ratios": result.ratios} for result in results]}
    file.write_text(json.dumps(data, indent=2) + "\n")
    return file


class CpuWatch:
    """Samples the CPU time of a command's worker processes, so that it can be asked for any moment afterwards."""

    def __init__(self, root: int, is_worker: Callable[[psutil.Process], bool], period_s: float = 0.05) -> None:
        self._root = psutil.Process(root)
        self._is_worker = is_worker
        self._period = period_s
        self._samples: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        workers: list[psutil.Process] = []
        while not self._done.wait(self._period):
            try:
                if not self._samples or len(self._samples) % 20 == 0:
                    workers = [child for child in self._root.children(recursive=True) if self._is_worker(child)]
                used = sum(sum(worker.cpu_times()[:2]) for worker in workers)
            except psutil.Error:
                workers = []
                continue
            if workers:
                self._samples.append((time.time(), used))

    def stop(self) -> None:
        """End sampling."""
        self._done.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """CPU seconds used between two moments."""
        inside = [used for moment, used in self._samples if start <= moment <= end]
        return inside[-1] - inside[0] if len(inside) > 1 else float("nan")


def run(
    command: Sequence[str], folder: Path, is_worker: Callable[[psutil.Process], bool]
) -> tuple[float, float, CpuWatch]:
    """Run a command to its end; when it began and ended, and its workers' CPU time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.log").open("wb") as log:
        started = time.time()
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        watch = CpuWatch(process.pid, is_worker)
        code = process.wait()
        ended = time.time()
    watch.stop()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{(folder / 'output.log').read_text()[-4000:]}")
    return started, ended, watch
