"""Golden files of the command line: text that users see, compared with what is stored in golden/."""

from __future__ import annotations

import difflib
from pathlib import Path

GOLDEN = Path(__file__).with_name("golden")


def compare(name: str, now: str, *, update: bool) -> None:
    """Compare a text with the stored one and fail with the lines that differ; with `update`, store it instead."""
    file = GOLDEN / name
    if update:
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(now, encoding="utf-8")
    stored = file.read_text(encoding="utf-8")
    # Ten lines of context, so that the command an entry belongs to is part of the diff.
    diff = difflib.unified_diff(stored.splitlines(), now.splitlines(), f"golden/{name}", "now", lineterm="", n=10)
    assert now == stored, "\n" + "\n".join(diff)
