"""Carries a sweep out for a person: starts the engine, shows what the ledger says, ends in order."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

from orchestrator import paths
from orchestrator.errors import (
    MachineError,
    OrchestratorError,
    PlanError,
    RunFailedError,
    RunStoppedError,
    StorageError,
)
from orchestrator.foundation.storage import open_store
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.driver.interrupts import Interrupts
from orchestrator.runtime.launchers.base import kill_child, start_child
from orchestrator.sweeps.definition import Definition
from orchestrator.sweeps.engine.ledger import Book, Ledger
from orchestrator.sweeps.record import LOG, SweepRecord
from orchestrator.sweeps.report.recorder import Recorder
from orchestrator.sweeps.report.report import Report
from orchestrator.tracking.store import prepare, resolve_uri

POLL_S = 0.25
ORPHAN_S = 20.0
"""For an engine to end whose starter was killed."""
PLOTS = "plots"
END_S = 60.0
"""After a request to stop, for trials to save; then the engine is ended at once."""


class View(Protocol):
    """Who is shown how a sweep stands."""

    def show(self, report: Report) -> None:
        """How it stands now."""

    def say(self, text: str) -> None:
        """One line."""


def refuse_second_engine(record: SweepRecord, book: Book) -> None:
    """Two engines would write into one ledger."""
    if book.status != "running" or book.host != socket.gethostname():
        return
    patience = time.monotonic() + ORPHAN_S
    while is_orphan(book.pid) and time.monotonic() < patience:
        time.sleep(POLL_S)
    if lives(book.pid):
        raise PlanError(
            f"Sweep {record.name} is being carried out by process {book.pid} on this machine.",
            f"Stop that one first: orchestrator sweep stop {record.name}{record.storage_flag}",
        )


def is_orphan(pid: int) -> bool:
    """Whether an engine is about to end, since the process that started it is gone."""
    import psutil

    try:
        parent = psutil.Process(pid).parent()
        return lives(pid) and (parent is None or not any("orchestrator" in part for part in parent.cmdline()))
    except psutil.Error:
        return False


def lives(pid: int) -> bool:
    import psutil

    try:
        return any("orchestrator.sweeps.engine.engine" in part for part in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def carry_out(record: SweepRecord, definition: Definition, view: View) -> Report:
    """One sitting, to its end. Raises when it failed or was stopped; the ledger tells in any case."""
    refuse_second_engine(record, record.book())
    record.store.remove(paths.STOP)
    recorder = _recorder(record, definition)
    with Interrupts(record.store).installed() as interrupts:
        sitting = Sitting(record, view, interrupts)
        try:
            sitting.start()
            if recorder:
                recorder.start()
            sitting.watch()
        except BaseException as error:
            interrupts.ignore()
            sitting.kill()
            _conclude(record, recorder, view)
            if isinstance(error, KeyboardInterrupt):
                raise RunStoppedError("Stopped at once, without saving.", _resume_hint(record)) from None
            raise
        interrupts.ignore()
        _conclude(record, recorder, view)
    return _outcome(record, sitting.report())


def _recorder(record: SweepRecord, definition: Definition) -> Recorder | None:
    tracking = definition.spec.tracking
    if not tracking.enabled:
        return None
    store = resolve_uri(tracking.uri, definition.spec.storage.path)
    prepare(store, tracking.timeout_s)
    return Recorder(record, tracking, store)


def _conclude(record: SweepRecord, recorder: Recorder | None, view: View) -> None:
    """Plots, and the end in MLflow; what goes wrong there is only told."""
    report = Report(record=record, book=record.book())

    def plots(folder: Path) -> None:
        from orchestrator.sweeps.report import plots as drawing

        drawing.draw(report, folder)

    with tempfile.TemporaryDirectory() as folder:
        try:
            plots(Path(folder))
            record.store.upload(Path(folder), PLOTS)
        except (OrchestratorError, ImportError) as error:
            view.say(f"note: there are no plots: {error}")
    if recorder and recorder.follows:
        for note in recorder.finish(report.book.status, plots):
            view.say(f"note: {note}")


def _outcome(record: SweepRecord, report: Report) -> Report:
    book = report.book
    if book.status == "failed":
        message, _, hint = book.message.partition("\n")
        raise RunFailedError(message, hint or f"Its log: {record.root}/{LOG}. {_resume_hint(record)}.")
    if book.status == "stopped":
        raise RunStoppedError(f"Stopped with {report.over} of {record.trials} trials done.", _resume_hint(record))
    return report


def _resume_hint(record: SweepRecord) -> str:
    return f"Go on with: orchestrator sweep resume {record.name}{record.storage_flag}"


class Sitting:
    """The engine's process, and what it writes."""

    def __init__(self, record: SweepRecord, view: View, interrupts: Interrupts) -> None:
        self._record = record
        self._view = view
        self._interrupts = interrupts
        self._ledger = Ledger(record.store)
        self._began = time.time()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0.0

    def start(self) -> None:
        """Start the engine; it ends when this process ends."""
        log = Path(self._record.root) / LOG
        if paths.is_url(self._record.root):
            log = Path(tempfile.mkdtemp(prefix="orchestrator-sweep-")) / "engine.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "orchestrator.sweeps.engine.engine", self._record.root]
        self._process = start_child(command, log, WorkerResources(cpus=1, gpus=0, threads=1))

    def watch(self) -> None:
        """Show how it stands until the engine is gone."""
        process = self._process
        while process is not None and process.poll() is None:
            with contextlib.suppress(StorageError):  # the engine knows what to do about it
                self._view.show(self.report())
            self._look_for_interrupts()
            time.sleep(POLL_S)
        report = self.report()
        self._view.show(report)
        if report.book.began < self._began or report.book.status == "running":
            raise self._lost(process.returncode if process else 0)

    def _lost(self, code: int) -> MachineError:
        """The engine ended without a word in the ledger."""
        return MachineError(
            f"The process that carried the sweep out ended with {code}.",
            f"Its log: {self._record.root}/{LOG}. {_resume_hint(self._record)}.",
        )

    def report(self) -> Report:
        """How it stands now."""
        return Report(record=self._record, book=self._ledger.read())

    def _look_for_interrupts(self) -> None:
        if not self._interrupts.look():
            return
        if not self._asked:
            self._asked = time.monotonic()
            self._record.store.write(paths.STOP, "a person asked to stop\n")
            again = "" if self._interrupts.has_grace else "; press Ctrl-C again to stop at once"
            self._view.say(f"trials save and stop{again}")
        elif not self._interrupts.has_grace and time.monotonic() - self._asked > END_S:
            raise KeyboardInterrupt

    def kill(self) -> None:
        """End the engine at once, and with it all its trials."""
        if self._process:
            kill_child(self._process)


def ask_to_stop(record: SweepRecord) -> bool:
    """Ask whoever carries a sweep out to end it in order; whether somebody seems to."""
    if record.book().status != "running":
        return False
    open_store(record.root).write(paths.STOP, "a person asked to stop\n")
    return True
