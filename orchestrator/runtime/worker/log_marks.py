"""What is noted beside a worker's log while it grows: when which part was written, and where the worker was last.

A process that is killed, as the system does for want of memory, leaves no traceback. The line of the person's own code
that it was last seen in is then the best that can be told.

Times are stored beside the log and not in its lines: prefixing each line would need a pipe and a reader, and what is in
a pipe dies with it.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.5
"""Between two looks: lines of a log have their time as exactly as this."""
PLACE_BYTES = 1024
"""Of the file that names the place. It is written over, all at once."""


class LogMarks:
    """Watches a growing log in a thread, from before the first line to the end of the process or of a block."""

    def __init__(
        self,
        log: Path,
        times: Path,
        place: Path | None = None,
        own: Callable[[str], str | None] = lambda file: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`place`: the file for where the thread that calls `start` is; `own`: what to call a file of the person's own
        code, and None for others.
        """
        self._log = log
        self._times = times
        self._place = place
        self._own = own
        self._clock = clock
        self._size = -1
        self._noted = ""
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log marks", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._main = threading.get_ident()
        with contextlib.suppress(OSError):
            self._times.parent.mkdir(parents=True, exist_ok=True)
            if self._place:
                self._place.unlink(missing_ok=True)
        self.look()
        self._thread.start()

    def finish(self) -> None:
        """Look once more, and no further."""
        self._ended.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Note what is new. Storage that fails loses notes, and nothing else."""
        with contextlib.suppress(OSError):
            log = self._log.stat()
            if log.st_size != self._size:
                self._size = log.st_size
                # The last write's own time: what an earlier attempt left behind unnoted is as old as it is.
                with self._times.open("a") as file:
                    file.write(f"{log.st_mtime:.3f} {log.st_size}\n")
            if self._place:
                self._note_place(self._place)

    def _note_place(self, file: Path) -> None:
        frame = sys._current_frames().get(self._main or 0)
        place = own_place(frame, self._own)
        if place is None:
            return
        told = json.dumps({"time": round(self._clock(), 3), **place})[: PLACE_BYTES - 1]
        if told != self._noted:
            self._noted = told
            handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(handle, told.ljust(PLACE_BYTES - 1).encode() + b"\n", 0)
            finally:
                os.close(handle)

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.look()


def own_place(frame: FrameType | None, own: Callable[[str], str | None]) -> dict[str, str] | None:
    """The innermost line of the person's own code that a thread is in; None where it is in none."""
    while frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        name = own(file)
        if name is not None:
            code = linecache.getline(file, line).strip()
            return {"where": f"{name}:{line}", "function": frame.f_code.co_name, "code": code[:200]}
        frame = frame.f_back
    return None
