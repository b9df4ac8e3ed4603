"""Checkpoints that one trial hands to another, as population based training does."""

from __future__ import annotations

import tempfile
from pathlib import Path

from orchestrator import paths
from orchestrator.foundation.storage import open_store
from orchestrator.runtime.checkpoint.catalog import FENCE, Catalog

FOLDER = "exchange"
KEPT = 2
"""Copies kept of each trial: a younger one may be made while an older is being taken over."""


def hand_out(sweep: str, trial: str) -> str:
    """Copy a trial's newest checkpoint to where it stays while the trial goes on; returns its name there."""
    name = Catalog(open_store(trial).child(paths.CHECKPOINTS)).last()
    if name is None:
        return ""
    shelf, owner = open_store(sweep).child(FOLDER), trial.rsplit("/", 1)[1]
    copy = f"{owner}/{name}"
    if not shelf.exists(copy):
        with tempfile.TemporaryDirectory() as scratch:
            shelf.child(owner).upload(open_store(trial).child(paths.CHECKPOINTS).download(name, Path(scratch)), name)
    for old in shelf.list(owner)[:-KEPT]:
        shelf.remove(f"{owner}/{old}")
    return copy


def take_over(sweep: str, copy: str, trial: str) -> None:
    """Put a copy in the place of all checkpoints that a trial has."""
    checkpoints = open_store(trial).child(paths.CHECKPOINTS)
    owner, _, name = copy.rpartition("/")
    with tempfile.TemporaryDirectory() as scratch:
        source = open_store(sweep).child(FOLDER).child(owner).download(name, Path(scratch))
        checkpoints.upload(source, name)
    for other in checkpoints.list():
        if other not in (name, FENCE):
            checkpoints.remove(other)
    # Whatever the trial's own attempts were: from here on this one counts.
    checkpoints.remove(FENCE)
