"""Processes for tests to kill: one that writes metrics, and one that forwards them. Neither is ever told to end."""

from __future__ import annotations

import os
import sys
import time
from itertools import count


def write(root: str, attempt: int, first: int) -> None:
    """Write metrics from a step on, and say after every few which are acknowledged."""
    from orchestrator.foundation.storage import open_store
    from orchestrator.records.events import METRICS, EventWriter
    from orchestrator.records.spool import Spool

    spool = Spool(EventWriter(open_store(root), "rank-0", attempt))
    for step in count(first):
        spool.emit(METRICS, step, metrics={"train/loss": 1 / step, "train/attempt": attempt})
        if step % 7 == 0:
            spool.flush()
            print(step, flush=True)


def forward(root: str, uri: str) -> None:
    """Send a run's metrics. Importing MLflow takes seconds, so that is done once, and victims are forked."""
    from orchestrator.config.schema import Tracking
    from orchestrator.foundation.storage import open_store
    from orchestrator.records import runs
    from orchestrator.tracking import client
    from orchestrator.tracking.sink import MlflowSink
    from orchestrator.tracking.store import resolve_uri

    client.load()
    for _ in sys.stdin:
        victim = os.fork()
        if victim:
            print(victim, flush=True)
            os.waitpid(victim, 0)
            continue
        storage, _, run_id = root.rpartition("/")
        assert open_store(root)
        record = runs.load(storage, run_id)
        sink = MlflowSink(Tracking(timeout_s=60), resolve_uri(uri, storage), record, record.plan)
        sink.start()
        while True:
            time.sleep(1)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        forward(sys.argv[2], sys.argv[3])
