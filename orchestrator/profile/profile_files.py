"""The files in which profiles are remembered, by their fingerprints. No torch: machines without it remember too."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.foundation.storage import write_atomically
from orchestrator.plans.memory.profile_types import ModelProfile

KEPT = 128
"""The newest so many profiles stay."""


def folder() -> Path:
    """Where profiles lie."""
    if own := os.environ.get("ORCHESTRATOR_CACHE"):  # it goes with a cluster
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "orchestrator" / "profiles"


def fingerprint(parts: Mapping[str, Any], sources: Iterable[Path]) -> str:
    """Equal for equal settings and equal code."""
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(sources)]
    text = json.dumps({**parts, "sources": code}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(name: str) -> ModelProfile | None:
    """A remembered profile; None when it is not known, or not in this version's form."""
    try:
        return ModelProfile.from_dict(json.loads(_file(name).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None


def remember(name: str, known: ModelProfile) -> None:
    """Keep a profile, if it is worth it: what could not be measured may be another time."""
    if not known.activations:
        return
    # A home that cannot be written makes the next plan slower, and is no reason to fail.
    with contextlib.suppress(OSError):
        write_atomically(_file(name), json.dumps(known.to_dict()).encode())
        _prune(folder())


def _file(name: str) -> Path:
    return folder() / f"{name}.json"


def _prune(where: Path) -> None:
    """Forget the oldest; another process may be doing the same."""
    files = [(file.stat().st_mtime, file) for file in where.glob("*.json")]
    for _, file in sorted(files)[:-KEPT]:
        file.unlink(missing_ok=True)
