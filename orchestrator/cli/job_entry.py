"""What Ray Jobs runs for a submitted run: `python -m orchestrator.cli.job_entry ROOT ATTEMPT`."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import paths
from orchestrator.cluster.node import here
from orchestrator.errors import MachineError, OrchestratorError
from orchestrator.foundation.environment import quiet_telemetry

BUG = 4


def main(root: str, attempt: str) -> int:
    """Carry the run out. What a terminal would show goes into the run's folder."""
    quiet_telemetry(os.environ)
    with _output_in(root):
        try:
            if here.adopt(os.environ) is None:
                raise MachineError("The cluster that has started this is not up any more.")
            _carry_out(root, int(attempt))
        except OrchestratorError as error:
            print(f"error: {error.message}\n{error.hint}".rstrip(), flush=True)
            return error.exit_code
        except Exception:  # noqa: BLE001  the process' boundary: a bug stands in the log, with its traceback
            traceback.print_exc()
            return BUG
    return 0


def _carry_out(root: str, attempt: int) -> None:
    from orchestrator.cli.views import progress, sweep
    from orchestrator.records import jobs
    from orchestrator.submission import head, sweep_head

    known = jobs.load(root)
    if known and known.sweep:
        print(sweep.summary(sweep_head.carry_out(known, attempt, sweep.PlainView(sys.stdout))), flush=True)
    else:
        head.carry_out(root, attempt, progress.PlainView(sys.stdout))


@contextmanager
def _output_in(root: str) -> Iterator[None]:
    """Lead this process's output into the run's folder, or to a copy of it in an object store."""
    from orchestrator.foundation.storage import open_store
    from orchestrator.runtime.worker.boot import LogCopy
    from orchestrator.runtime.worker.log_marks import LogMarks

    url = paths.is_url(root)
    log = Path(tempfile.mkdtemp(prefix="orchestrator-")) / "driver.log" if url else Path(root) / paths.DRIVER_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
    times = Path(root) / paths.log_times(paths.DRIVER_LOG)
    watch = LogCopy(log, open_store(root), paths.DRIVER_LOG) if url else LogMarks(log, times)
    watch.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        watch.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
