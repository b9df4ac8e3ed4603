"""Matrices of tests grow faster than the time a run may take: of each, a run takes a share, another one for each commit.

Marked with `matrix(share)`, the cases of a file run one in `share`; at least one runs always. Which ones follows from the
commit, so that a run can be repeated, and so that a few commits together run them all. `--all` runs every case.
"""

from __future__ import annotations

import subprocess
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The commit that is tested; empty outside of a checkout."""
    words = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def left_out(cases: Mapping[str, int], seed: str) -> set[str]:
    """Of cases by their node ids, each with its share, those that this run does not take."""
    files: dict[tuple[str, int], list[str]] = defaultdict(list)
    for case, share in cases.items():
        files[case.partition("::")[0], share].append(case)
    return {case for (_, share), names in files.items() for case in set(names) - _taken(names, share, seed)}


def _taken(names: Iterable[str], share: int, seed: str) -> set[str]:
    """A share of the names, rounded up, in an order that the seed shuffles."""
    shuffled = sorted(names, key=lambda name: zlib.crc32(f"{seed} {name}".encode()))
    return set(shuffled[: -(-len(shuffled) // share)])
