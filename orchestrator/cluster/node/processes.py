"""Processes told apart for certain, and ended with all that they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
STARTED_FIELD = 19
"""Where /proc/PID/stat, counted from behind the name, tells when the process started, in ticks since boot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One process, also when its number was given to another one since, or the machine started anew."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this number now; None when there is none, or only its remains."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        state, *fields = stat.rpartition(")")[2].split()
        if state in "ZX":
            return None
        return cls(pid=pid, started=int(fields[STARTED_FIELD - 1]), boot=BOOT.read_text().strip())

    def lives(self) -> bool:
        """Whether it is this very process that has the number."""
        return Identity.of(self.pid) == self


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of all whose parents end before them, among those that this process starts."""
    child_subreaper = 36
    ctypes.CDLL(None).prctl(child_subreaper, 1)


def marked(name: str, value: str) -> list[psutil.Process]:
    """Our processes that were started with a variable in their environment, all in their sessions, and all below them.

    The sessions, since some programs write over their environment to show a title. A session in which one process has
    the variable is one that we began: its number is not given to another while anybody is in it.
    """
    own = [process for process in psutil.process_iter() if _is_own(process)]
    sessions = {_session(process) for process in own if _has(process, name, value)} - {None, os.getsid(0)}
    found: dict[int, psutil.Process] = {}
    for process in own:
        if _has(process, name, value) or _session(process) in sessions:
            with contextlib.suppress(psutil.Error):
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
    return [process for pid, process in found.items() if pid != os.getpid()]


def _is_own(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _has(process: psutil.Process, name: str, value: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(name) == value
    return False


def _session(process: psutil.Process) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(process.pid)
    return None


def kill(processes: Iterable[psutil.Process], timeout_s: float = 5.0) -> None:
    """End processes at once, and wait until they are gone."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=timeout_s)


def wait_gone(identity: Identity, timeout_s: float) -> bool:
    """Wait for the end of a process that is not our child; False when it still lives after the time."""
    end = time.monotonic() + timeout_s
    while identity.lives():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
