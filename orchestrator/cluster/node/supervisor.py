"""The process behind a service that stays: starts a program, and takes everything along that it started when it ends.

Run as `python -m orchestrator.cluster.node.supervisor FILE PROGRAM...`; FILE is where it says who it is. It is the
leader of a session and the parent of all orphans in it, so that nothing the program starts can outlive it: not its
daemons, and not what those leave behind. On SIGTERM it asks the program to end, and then ends what is left. If it is
killed itself, the kernel ends the program.

`down` thus ends exactly what was started, by process ids that cannot be mistaken, and never by name as `ray stop` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from orchestrator.cluster.node import private, processes

MARKER = "ORCHESTRATOR_KEEPER"
"""The variable by which all that a keeper started can be found again, should the keeper be gone; it holds FILE."""
GRACE_S = 8.0
"""How long the program may take to end in order: Ray takes two or three seconds."""
EXPECTED = frozenset({signal.SIGTERM, signal.SIGCHLD})


def main(file: str, *argv: str) -> int:
    """Keep a program until it ends, or until we are told to end it."""
    os.umask(0o077)
    processes.adopt_orphans()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # Ray opens many files, and sessions of ssh begin with few
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, EXPECTED)
    me = processes.Identity.of(os.getpid())
    assert me
    private.write(Path(file), json.dumps(dataclasses.asdict(me)))
    program = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, env={**os.environ, MARKER: file}, preexec_fn=_begin, start_new_session=False
    )
    asked = _wait(program.pid)
    if asked:
        program.terminate()
        _wait(program.pid, timeout_s=GRACE_S)
    _end_all()
    return 0 if asked else 1


def _begin() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXPECTED)
    processes.end_with_parent()


def _wait(program: int, timeout_s: float = float("inf")) -> bool:
    """Bury the dead until the program is among them (False), or we are asked to end or the time is over (True)."""
    end = time.monotonic() + timeout_s
    while True:
        if _bury(program):
            return False
        if time.monotonic() > end:
            return True
        happened = signal.sigtimedwait(EXPECTED, 1.0)
        if happened and happened.si_signo == signal.SIGTERM:
            return True


def _bury(program: int) -> bool:
    """Take leave of all children that have ended; whether the program is among them."""
    ended = False
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended |= pid == program
    return ended


def _end_all() -> None:
    """Kill until nobody is left: who is killed leaves children to us, which are then killed in turn."""
    end = time.monotonic() + GRACE_S
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _bury(0)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
