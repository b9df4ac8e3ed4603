"""What a training script of one's own may tell the run it is part of. Outside of a run, nothing happens."""

from __future__ import annotations

import atexit
import functools
import json
import os
from pathlib import Path

from orchestrator.foundation.storage import open_store
from orchestrator.records import events
from orchestrator.records.events import EventWriter
from orchestrator.records.spool import Spool
from orchestrator.runtime.worker.context import Launch
from orchestrator.runtime.worker.script.script import FOLDER, LAUNCH


def report(step: int, **metrics: float) -> None:
    """Record metrics of a step, as `report(step, loss=0.5)`; the first worker's count, and are shown as train/loss.

    Returns within microseconds; a thread writes them.
    """
    spool = _spool()
    if spool:
        named = {name if "/" in name else f"train/{name}": float(value) for name, value in metrics.items()}
        spool.emit(events.METRICS, step, metrics=named)


def checkpoint(saved: int | None = None) -> Path:
    """The folder for the script's own checkpoints: where the next attempt looks for them.

    `saved`: the step of one that is complete now. A run that gets further between failures is restarted more often.
    """
    spool = _spool()
    if spool and saved is not None:
        spool.emit(events.CHECKPOINT, saved, name=f"step {saved} of the script", best=False)
    folder = Path(os.environ.get(FOLDER, "checkpoints"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def _spool() -> Spool | None:
    if LAUNCH not in os.environ or os.environ.get("RANK") != "0":
        return None
    launch = Launch(**json.loads(Path(os.environ[LAUNCH]).read_text()))
    spool = Spool(EventWriter(open_store(launch.root), "rank-0", launch.attempt))
    atexit.register(spool.close)
    return spool
