"""Run all benchmarks, print the table that the docs carry, and keep the raw figures."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks import checkpoints, images, pruning, strategies, submission, sweeps, tracking, training
from benchmarks.harness import HEADER, keep

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    "training": training.benchmark,
    "checkpoints": checkpoints.benchmark,
    "strategies": strategies.benchmark,
    "tracking": tracking.benchmark,
    "images": images.benchmark,
    "submission": submission.benchmark,
    "sweeps": sweeps.benchmark,
    "pruning": pruning.benchmark,
}


def _folder(given: str | None) -> contextlib.AbstractContextManager[str]:
    return contextlib.nullcontext(given) if given else tempfile.TemporaryDirectory(prefix="orchestrator-bench-")


def main() -> None:
    """Command line: which benchmarks, how many pairs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of each comparison (default 5)")
    parser.add_argument("--folder", help="where to work; kept afterwards (default: a temporary folder)")
    arguments = parser.parse_args()
    results = []
    with _folder(arguments.folder) as scratch:
        for name in arguments.names or BENCHMARKS:
            if name not in BENCHMARKS:
                parser.error(f"there is no benchmark {name!r}: {', '.join(BENCHMARKS)}")
            print(f"{name}:", flush=True)
            results += BENCHMARKS[name](arguments.pairs, Path(scratch) / name)
    print("", HEADER, *(result.row() for result in results), sep="\n")
    print(f"\nraw figures: {keep(results, RESULTS)}")


if __name__ == "__main__":
    main()
