"""Golden files: text that users see, compared with what is stored."""

from __future__ import annotations

import difflib
from pathlib import Path


def compare(file: Path, now: str, *, update: bool) -> None:
    """Compare a text with the stored one and fail with the lines that differ; with `update`, store it instead."""
    if update:
        file.write_text(now, encoding="utf-8")
    stored = file.read_text(encoding="utf-8")
    # Ten lines of context, so that the command an entry belongs to is part of the diff.
    diff = difflib.unified_diff(stored.splitlines(), now.splitlines(), f"golden/{file.name}", "now", lineterm="", n=10)
    assert now == stored, "\n" + "\n".join(diff)
