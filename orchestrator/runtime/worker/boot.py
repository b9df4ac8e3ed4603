"""The first and last thing in every worker process, whoever started it: logs, import path, and failures kept."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
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
from orchestrator.foundation.storage import Store, open_store
from orchestrator.project import unpack
from orchestrator.runtime.worker import environment
from orchestrator.runtime.worker.context import Launch, WorkerContext
from orchestrator.runtime.worker.log_marks import LogMarks

COPY_INTERVAL_S = 10.0
"""Between two looks for what a log got, to copy it to an object store."""


def run_entry(ctx: WorkerContext) -> None:
    """Run the launch's entry function; an exception is recorded in run storage and raised again."""
    with _log_copied(_redirect_output(ctx), ctx):
        try:
            _take_project(ctx)
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
        **_place_in_user_code(error, launch.project),
        "project": launch.project,
        "traceback": "".join(traceback.format_exception(error)),
    }
    # The log has it in any case; trouble with storage may well be what went wrong.
    with contextlib.suppress(StorageError):
        open_store(launch.root).write(paths.failure(launch.attempt, rank), json.dumps(record, indent=2) + "\n")


def _place_in_user_code(error: BaseException, project: str) -> dict[str, str]:
    """`where`, as `file:line`: the innermost frame that is the person's own code, or else the innermost; its `code`."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, SyntaxError) and cause.filename:
            return {"where": f"{cause.filename}:{cause.lineno}", "code": (cause.text or "").strip(), "function": ""}
    for cause in causes:
        own = [frame for frame in traceback.extract_tb(cause.__traceback__) if _is_own(frame.filename, project)]
        if own:
            return _frame(own[-1])
    frames = traceback.extract_tb(error.__traceback__)
    return _frame(frames[-1]) if frames else {"where": "", "code": "", "function": ""}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and what it was raised from: ours name what went wrong in a person's module."""
    while error is not None:
        yield error
        error = error.__cause__


def _frame(frame: traceback.FrameSummary) -> dict[str, str]:
    return {"where": f"{frame.filename}:{frame.lineno}", "code": frame.line or "", "function": frame.name}


def _is_own(filename: str, project: str) -> bool:
    path, package = Path(filename), Path(paths.__file__).parent
    return "site-packages" not in path.parts and path.is_relative_to(project) and not path.is_relative_to(package)


def _own_name(filename: str, project: str) -> str | None:
    return str(Path(filename).relative_to(project)) if _is_own(filename, project) else None


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
    """Copy a log to storage that it cannot lie in: now and then, because a killed worker has no end, and at the end.

    Where it lies in run storage, note beside it how it grows.
    """
    watch = _marks(log, ctx) if not paths.is_url(ctx.launch.root) else _copy(log, ctx)
    watch.start()
    try:
        yield
    finally:
        watch.finish()


def _copy(log: Path, ctx: WorkerContext) -> LogCopy:
    return LogCopy(log, open_store(ctx.launch.root), paths.worker_log(ctx.rank))


def _marks(log: Path, ctx: WorkerContext) -> LogMarks:
    root, rank = Path(ctx.launch.root), ctx.rank
    own = functools.lru_cache(lambda file: _own_name(file, ctx.launch.project))
    times = root / paths.log_times(paths.worker_log(rank))
    return LogMarks(log, times, root / paths.last_place(rank), own)


class LogCopy:
    """Copies a growing log file to run storage, in a thread; trouble with storage only delays it."""

    def __init__(self, log: Path, store: Store, name: str) -> None:
        self._log = log
        self._store = store
        self._name = name
        self._pieces: int | None = None
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
            self._note_time()

    def _note_time(self) -> None:
        """Note when the newest piece came; in such storage the cursor behind it is the number of pieces."""
        self._pieces = len(self._store.list(self._name)) if self._pieces is None else self._pieces + 1
        self._store.append(paths.log_times(self._name), f"{time.time():.3f} {self._pieces}\n")

    def _run(self) -> None:
        while not self._ended.wait(COPY_INTERVAL_S):
            self.copy()


def _take_project(ctx: WorkerContext) -> None:
    """Make ready what a person's code needs: itself, its packages, its environment."""
    if ctx.launch.package:
        folder = str(unpack.ready(ctx.launch.package))
        ctx.launch = dataclasses.replace(ctx.launch, project=folder)
        os.chdir(folder)
    environment.give(ctx.launch.plan.get("spec", {}), os.environ)
    if ctx.launch.project not in sys.path:
        sys.path.insert(0, ctx.launch.project)


def _entry(launch: Launch) -> Callable[[WorkerContext], None]:
    module, _, name = launch.entry.partition(":")
    entry: Callable[[WorkerContext], None] = getattr(importlib.import_module(module), name)
    return entry
