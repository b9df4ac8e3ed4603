"""Linux namespaces, by the two system calls that Python 3.11 lacks. All need root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from typing import Any

NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_PIDS, NEW_NETWORK = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own; of process ids: to the children it will have."""
    _checked(_libc.unshare(flags))


def forbidden() -> str:
    """Why this process may make no namespaces; empty where it may."""
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import namespaces as n; n.unshare(n.ALL)"  # noqa: PTH120
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        return ""
    if "PermissionError" in done.stderr:
        return "this process may not make namespaces (it takes root, and in a container --privileged)"
    raise RuntimeError(f"namespaces could not be tried: {done.stderr}")


ALL = NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_PIDS | NEW_NETWORK


def start_first(argv: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a program as process 1 of a new namespace of process ids. When it ends, the kernel ends all others in it."""
    return _start(argv, lambda: unshare(NEW_PIDS), options)


def start_inside(pid: int, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program in all the namespaces of another process, as a direct child of ours."""
    folder = f"/proc/{pid}/ns"
    # `nsenter --pid` would put a process of its own between us and the program, and signals would end there.
    enter = ["nsenter", *(f"--{kind}={folder}/{file}" for kind, file in _KINDS.items()), "--"]
    return _start([*enter, *argv], lambda: _enter_pids(folder), options)


_KINDS = {"mount": "mnt", "uts": "uts", "ipc": "ipc", "net": "net"}


def _enter_pids(folder: str) -> None:
    handle = os.open(f"{folder}/pid", os.O_RDONLY)
    try:
        _checked(_libc.setns(handle, NEW_PIDS))
    finally:
        os.close(handle)


def _start(argv: list[str], prepare: Any, options: dict[str, Any]) -> subprocess.Popen[Any]:
    """In a thread that ends at once: where its children are born is a property of the thread."""
    result: list[subprocess.Popen[Any] | BaseException] = []

    def start() -> None:
        try:
            prepare()
            result.append(subprocess.Popen(argv, **options))
        except BaseException as error:  # noqa: BLE001  carried over to the caller's thread
            result.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (outcome,) = result
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
