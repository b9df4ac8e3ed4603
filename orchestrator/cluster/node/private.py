"""Secrets and the files they lie in: readable by their owner alone, from the first byte on.

Secrets are made where `up` runs, once per start, and then belong to the head: a later `up` from another machine takes
the head's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import MachineError

FOR_OTHERS = 0o077
"""The permission bits that a secret's file must not have."""
POLL_S = 0.1


def new_token() -> str:
    """A token for Ray."""
    return secrets.token_hex(32)


def new_password() -> str:
    """A password for MLflow; it can stand in a URL, an ini file and a shell as it is."""
    return secrets.token_urlsafe(24)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for the owner alone."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)


def write(file: Path, text: str) -> None:
    """Write a file that nobody else can read at any moment, and that appears whole or not at all."""
    make_folder(file.parent)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(handle)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(file: Path) -> str:
    """Read a secret, unless others could do so too."""
    try:
        mode = file.stat().st_mode
        if mode & FOR_OTHERS:
            raise MachineError(
                f"{file} holds a secret, and others can read it (mode {mode & 0o777:o}).",
                f"Take that away with: chmod 600 {file}; who read it can use the cluster: start it anew to be sure.",
            )
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise MachineError(
            f"{file} cannot be read: {error.strerror}.", "Start the cluster anew; that makes it."
        ) from error


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, and the empty folders above it that were made for it."""
    if folder.exists():
        shutil.rmtree(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time into a folder. The lock is the folder itself: it leaves no file, and ends with us."""
    while True:
        make_folder(folder)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_still(folder, handle):
                yield
                return
        finally:
            os.close(handle)


@contextlib.contextmanager
def alone_on_machine(purpose: str, timeout_s: float) -> Iterator[None]:
    """Let one process at a time of this machine go on, whoever's it is; none waits longer than the time.

    The lock is a name in the machine's network that one can have at a time, as with ports. It leaves no file that
    another user could not open, and ends with us.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        end = time.monotonic() + timeout_s
        while not _takes(lock, f"\0orchestrator-{purpose}") and time.monotonic() < end:
            time.sleep(POLL_S)
        yield


def _takes(lock: socket.socket, name: str) -> bool:
    try:
        lock.bind(name)
    except OSError:
        return False
    return True


def _is_still(folder: Path, handle: int) -> bool:
    """Whether a folder is the one we opened; whoever had the lock before us may have removed it."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
