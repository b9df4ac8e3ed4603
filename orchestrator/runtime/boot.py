"""The first and last thing in every worker process, whoever started it: logs, import path, and failures kept."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from orchestrator import paths
from orchestrator.runtime.context import Launch, WorkerContext
from orchestrator.storage import open_store


def run_entry(ctx: WorkerContext) -> None:
    """Run the launch's entry function; an exception is recorded in run storage and raised again."""
    log = _redirect_output(ctx)
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
        if paths.is_url(ctx.launch.root):
            open_store(ctx.launch.root).write(paths.worker_log(ctx.rank), log.read_text(errors="replace"))


def record_failure(launch: Launch, rank: int, error: BaseException) -> None:
    """Keep what went wrong where the driver finds it; the earliest of an attempt is the cause of the others."""
    traceback.print_exc()
    record = {
        "rank": rank,
        "time": time.time(),
        "type": type(error).__name__,
        "message": str(error),
        "where": _place_in_user_code(error, launch.project),
        "traceback": "".join(traceback.format_exception(error)),
    }
    open_store(launch.root).write(paths.failure(launch.attempt, rank), json.dumps(record, indent=2) + "\n")


def _place_in_user_code(error: BaseException, project: str) -> str:
    """`file:line` of the innermost frame that is the person's own code, or else of the innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename, project)]
    chosen = (own or list(frames))[-1:]
    return f"{chosen[0].filename}:{chosen[0].lineno}" if chosen else ""


def _is_own(filename: str, project: str) -> bool:
    package = str(Path(__file__).parent.parent)
    return "site-packages" not in filename and not filename.startswith(package) and filename.startswith(project)


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


def _import_path(project: str) -> None:
    if project not in sys.path:
        sys.path.insert(0, project)


def _entry(launch: Launch) -> Callable[[WorkerContext], None]:
    module, _, name = launch.entry.partition(":")
    entry: Callable[[WorkerContext], None] = getattr(importlib.import_module(module), name)
    return entry
