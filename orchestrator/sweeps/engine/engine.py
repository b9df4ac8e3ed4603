"""The process that carries a sweep out: Ray Tune between the ledger and the trials.

It starts from the ledger, writes into it whatever happens, and keeps nothing else. The process that started it shows
people what the ledger says, and asks it to stop by a file in the sweep's folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

from orchestrator import paths
from orchestrator.errors import OrchestratorError
from orchestrator.foundation.environment import quiet_telemetry
from orchestrator.sweeps.engine.conductor import ASKED, Conductor
from orchestrator.sweeps.engine.ledger import (
    SWEEP,
)
from orchestrator.sweeps.record import TUNE, SweepRecord
from orchestrator.sweeps.trials import concurrency

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1000000",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_LEN_IDENTIFIER": "40",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Ray Tune writes nothing that we do not read, and leaves signals alone."""


def carry_out(record: SweepRecord) -> None:
    """One sitting, from where the ledger stands to the end; the ledger tells how that was."""
    conductor = Conductor(record, record.definition())
    conductor.ledger.write(SWEEP, state="running", host=socket.gethostname(), pid=os.getpid())
    try:
        reason = _tune(conductor)
    except (SystemExit, KeyboardInterrupt):
        conductor.ledger.write(SWEEP, state="stopped", message="it was ended at once")
        raise
    except BaseException as error:
        conductor.ledger.write(SWEEP, state="failed", message=_told(error))
        raise
    if not conductor.fatal and reason != ASKED:
        conductor.prune_all()
    state = "failed" if conductor.fatal else "stopped" if reason == ASKED and conductor.is_incomplete else "finished"
    # The reason that a last trial gave may have come after the scheduler had looked for one.
    conductor.ledger.write(SWEEP, state=state, message=conductor.fatal or reason)


def _tune(conductor: Conductor) -> str:
    if not conductor.has_more():
        return ""
    from orchestrator.sweeps.engine import tuner

    scratch = Path(conductor.record.root) / TUNE if not paths.is_url(conductor.record.root) else None
    following = conductor.next()
    if following is None:
        return ""
    trial, plan = following
    conductor.put_back(trial)
    there = conductor.planner.inventory
    try:
        return tuner.run(conductor, plan, concurrency(conductor.definition, plan, there), scratch)
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _told(error: BaseException) -> str:
    if isinstance(error, OrchestratorError):
        return f"{error.message}\n{error.hint}".strip()
    return f"{type(error).__name__}: {error}"


def main(root: str) -> int:
    """Carry out the sweep in a folder."""
    from orchestrator.sweeps.record import load

    os.environ.update(SETTINGS)
    quiet_telemetry(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    storage, _, name = root.rpartition("/")
    try:
        carry_out(load(storage, name))
    except OrchestratorError as error:
        print(error, flush=True)
        return error.exit_code
    except Exception:  # noqa: BLE001  the process' boundary: the ledger tells the error, the log its traceback
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
