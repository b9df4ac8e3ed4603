"""The first and last thing in every worker process, whoever started it: logs, import path, and failures kept."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.runtime.context import Launch, WorkerContext
from orchestrator.storage import Store, open_store

COPY_INTERVAL_S = 10.0
"""Between two looks for what a log got, to copy it to an object store."""


def run_entry(ctx: WorkerContext) -> None:
    """Run the launch's entry function; an exception is recorded in run storage and raised again."""
    with _log_copied(_redirect_output(ctx), ctx):
        try:
            _import_path(ctx.launch.project)
            _entry(ctx.launch)(ctx)
        except BaseException as error:
            if not isinstance(error, SystemExit):
                record_failure(ctx.launch, ctx.rank, error)
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


def record_failure(launch: Launch, rank: int, error: BaseException) -> None:
    """Keep what went wrong where the driver finds it; the earliest of an attempt is the cause of the others."""
    traceback.print_exception(error)
    record = {
        "rank": rank,
        "time": time.time(),
        "type": type(error).__name__,
        "message": str(error),
        "where": _place_in_user_code(error, launch.project),
        "traceback": "".join(traceback.format_exception(error)),
    }
    # The log has it in any case; trouble with storage may well be what went wrong.
    with contextlib.suppress(StorageError):
        open_store(launch.root).write(paths.failure(launch.attempt, rank), json.dumps(record, indent=2) + "\n")


def _place_in_user_code(error: BaseException, project: str) -> str:
    """`file:line` of the innermost frame that is the person's own code, or else of the innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename, project)]
    chosen = (own or list(frames))[-1:]
    return f"{chosen[0].filename}:{chosen[0].lineno}" if chosen else ""


def _is_own(filename: str, project: str) -> bool:
    path, package = Path(filename), Path(__file__).parent.parent
    return "site-packages" not in path.parts and path.is_relative_to(project) and not path.is_relative_to(package)


def _redirect_output(ctx: WorkerContext) -> Path:
    """Send this process's output, also that of libraries in C, to its own log file."""
    if paths.is_url(ctx.launch.root):
        log = Path(tempfile.mkdtemp(prefix="orchestrator-")) / f"rank-{ctx.rank}.log"
    else:
        log = Path(ctx.launch.root) / paths.worker_log(ctx.rank)
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.flush()
        os.dup2(handle, number)
    os.close(handle)
    # Launchers may have replaced these by wrappers that print elsewhere; user code should reach the log all the same.
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    faulthandler.enable(file=sys.stderr)
    return log


@contextlib.contextmanager
def _log_copied(log: Path, ctx: WorkerContext) -> Iterator[None]:
    """Copy a log to storage that it cannot lie in: now and then, because a killed worker has no end, and at the end."""
    if not paths.is_url(ctx.launch.root):
        yield
        return
    copy = LogCopy(log, open_store(ctx.launch.root), paths.worker_log(ctx.rank))
    copy.start()
    try:
        yield
    finally:
        copy.finish()


class LogCopy:
    """Copies a growing log file to run storage, in a thread; trouble with storage only delays it."""

    def __init__(self, log: Path, store: Store, name: str) -> None:
        self._log = log
        self._store = store
        self._name = name
        self._copied = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log copy", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def finish(self) -> None:
        """Copy the rest."""
        self._ended.set()
        self._thread.join()
        self.copy(up_to_last_line=False)

    def copy(self, up_to_last_line: bool = True) -> None:
        """Copy what the log got since the last time."""
        with self._log.open("rb") as file:
            file.seek(self._copied)
            data = file.read()
        if up_to_last_line:
            data = data[: data.rfind(b"\n") + 1]
        if not data:
            return
        with contextlib.suppress(StorageError):
            self._store.append(self._name, data.decode(errors="replace").rstrip("\n") + "\n")
            self._copied += len(data)

    def _run(self) -> None:
        while not self._ended.wait(COPY_INTERVAL_S):
            self.copy()


def _import_path(project: str) -> None:
    if project not in sys.path:
        sys.path.insert(0, project)


def _entry(launch: Launch) -> Callable[[WorkerContext], None]:
    module, _, name = launch.entry.partition(":")
    entry: Callable[[WorkerContext], None] = getattr(importlib.import_module(module), name)
    return entry
