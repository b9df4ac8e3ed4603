"""Services that stay, with ordinary programs in Ray's place: their start, their end, and that of whoever keeps them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.node import private, processes, services
from orchestrator.cluster.node.home import Home
from orchestrator.cluster.node.processes import Identity
from orchestrator.errors import MachineError

DAEMON = """
import os, subprocess, sys, time
def sleeper(**options):
    return str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **options).pid)
child = sleeper()
apart = sleeper(start_new_session=True)
middle = subprocess.run([sys.executable, "-c", "import subprocess, sys; print(subprocess.Popen("
    "[sys.executable, '-c', 'import time; time.sleep(600)'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True).pid)"],
    capture_output=True, text=True)  # its child becomes an orphan
open(sys.argv[1], "w").write(" ".join([str(os.getpid()), child, apart, middle.stdout.strip()]))
time.sleep(600)
"""
"""A program that leaves children in every way that Ray does: in its session, in one of their own, and as orphans."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    private.make_folder(home.folder)
    yield home
    services.stop(home, "it")
    while started:
        started.pop().wait(10)


started: list[subprocess.Popen[bytes]] = []
"""Keepers are our children here, and have to be buried."""


def start(home: Home, tmp_path: Path, program: str = DAEMON) -> list[int]:
    """Start a service, and wait until it says which processes there are."""
    told = tmp_path / "told"
    process = services.start(home, "it", [sys.executable, "-c", program, str(told)], os.environ)
    started.append(process)
    services.wait(home, "it", process, lambda: told.exists() and bool(told.read_text()), 30)
    return [int(word) for word in told.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Identity.of(pid)]


def soon(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


def test_stop_ends_all_that_it_started(home: Home, tmp_path: Path) -> None:
    pids = start(home, tmp_path)
    assert services.lives(home, "it")
    assert alive(pids) == pids
    services.stop(home, "it")
    assert not services.lives(home, "it")
    assert not alive(pids)
    services.stop(home, "it")  # again, with nothing there


def test_a_killed_keeper_takes_its_program_along_and_stop_finds_the_rest(home: Home, tmp_path: Path) -> None:
    pids = start(home, tmp_path)
    keeper = services.keeper(home, "it")
    assert keeper
    os.kill(keeper.pid, signal.SIGKILL)
    assert soon(lambda: not services.lives(home, "it"))
    assert soon(lambda: pids[0] not in alive(pids))
    services.stop(home, "it")
    assert not alive(pids)


def test_the_end_of_the_program_is_the_end_of_its_children(home: Home, tmp_path: Path) -> None:
    pids = start(home, tmp_path)
    os.kill(pids[0], signal.SIGKILL)
    assert soon(lambda: not services.lives(home, "it"))
    assert not alive(pids)


def test_a_program_that_ends_at_once_is_an_error_that_says_why(home: Home, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"it ended at once: ValueError: no port\."):
        start(home, tmp_path, "raise ValueError('no port.')")
    assert not services.lives(home, "it")


def test_the_number_of_another_process_is_not_taken_for_ours(home: Home) -> None:
    """After the machine was started anew, or when numbers have gone round."""
    me = Identity.of(os.getpid())
    assert me
    for started, boot in ((me.started + 1, me.boot), (me.started, "another boot")):
        home.service("it").write_text(json.dumps({"pid": os.getpid(), "started": started, "boot": boot}))
        assert not services.lives(home, "it")
        services.stop(home, "it")  # and lives on to tell


def test_only_those_with_our_mark_are_found() -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        subprocess.Popen(sleeper, env={**os.environ, "MARK": "a"}, start_new_session=True) as marked,
        subprocess.Popen(sleeper, env={**os.environ, "MARK": "b"}, start_new_session=True) as other,
    ):
        try:
            assert soon(lambda: [process.pid for process in processes.marked("MARK", "a")] == [marked.pid])
        finally:
            for process in (marked, other):
                with contextlib.suppress(psutil.Error):
                    psutil.Process(process.pid).kill()


def test_files_of_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "a/b/token"
    private.write(file, "secret\n")
    assert private.read(file) == "secret"
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent, file.parent.parent)] == [0o600, 0o700, 0o700]
    file.chmod(0o644)
    with pytest.raises(MachineError, match=r"others can read it \(mode 644\)"):
        private.read(file)


def test_a_folder_that_was_removed_by_whoever_had_the_lock_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    with private.locked(folder):
        assert folder.is_dir()
        private.remove(folder)
    with private.locked(folder):
        assert folder.is_dir()


def test_one_at_a_time_on_a_machine_and_nobody_waits_for_ever() -> None:
    purpose = f"test-{os.getpid()}"
    with private.alone_on_machine(purpose, 60):
        begun = time.monotonic()
        with private.alone_on_machine(purpose, 0.3):
            assert time.monotonic() - begun >= 0.3
    begun = time.monotonic()
    with private.alone_on_machine(purpose, 60):
        assert time.monotonic() - begun < 30
