"""The command line of hosts for tests: `python -m tests.cluster.hosts up 3`, and what goes with it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cluster import namespaces
from tests.cluster.hosts import HOME, KEY, ROOT, Host, Hosts, HostsError

STATE = Path("/run/orchestrator-hosts.json")
"""What `up` started: the process that keeps the hosts, and the hosts."""
START_S = 60.0
END_S = 20.0


def main(argv: list[str]) -> int:
    """Carry out one command."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.act(options)
    except HostsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.hosts", description="Several hosts on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, act, text in (
        ("up", up, "Start hosts that stay until `down`."),
        ("keep", keep, "Start hosts and keep them until this process ends."),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("count", type=int, nargs="?", default=3, help="how many  [default: 3]")
        command.add_argument("--share", action="append", default=[], metavar="FOLDER", help="the same for all hosts")
        command.set_defaults(act=act)
    for name, act, text in (("status", status, "Show the hosts."), ("down", down, "Stop them; nothing is left.")):
        commands.add_parser(name, help=text, description=text).set_defaults(act=act)
    command = commands.add_parser("exec", help="Run a program on a host.", usage="%(prog)s HOST -- PROGRAM ...")
    command.add_argument("host")
    command.add_argument("argv", nargs="+")
    command.set_defaults(act=execute)
    command = commands.add_parser("shell", help="Open a shell on a host, or on the laptop.")
    command.add_argument("host", nargs="?", default="laptop")
    command.set_defaults(act=execute, argv=["bash"])
    return parser


def up(options: argparse.Namespace) -> int:
    """Start a process that keeps the hosts, and wait until they are there."""
    if _state() is not None:
        print("The hosts are up already.")
        return status(options)
    if reason := namespaces.forbidden():
        raise HostsError(f"Hosts cannot be made here: {reason}.")
    shares = [word for folder in options.share for word in ("--share", folder)]
    command = [sys.executable, "-m", "tests.cluster.hosts", "keep", str(options.count), *shares]
    with tempfile.TemporaryFile("w+") as log:
        keeper = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        end = time.monotonic() + START_S
        while _state() is None:
            if keeper.poll() is not None or time.monotonic() > end:
                log.seek(0)
                raise HostsError(log.read().strip().removeprefix("error: ") or "the hosts did not start")
            time.sleep(0.05)
    return status(options)


def keep(options: argparse.Namespace) -> int:
    """Be the process that the hosts live with."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Hosts(options.count, shared=options.share) as hosts:
        everybody = [
            {"name": host.name, "address": host.address, "pid": host.pid, "path": host.path}
            for host in (*hosts.all, hosts.laptop)
        ]
        unfinished = STATE.with_suffix(".new")
        unfinished.write_text(json.dumps({"keeper": os.getpid(), "hosts": everybody, "shared": options.share}))
        unfinished.replace(STATE)
        try:
            signal.pause()
        finally:
            STATE.unlink(missing_ok=True)
    return 0


def status(options: argparse.Namespace) -> int:
    """Print the hosts and how to reach them."""
    state = _state()
    if state is None:
        print("No hosts are up. Start some with: python -m tests.cluster.hosts up 3")
        return 1
    for host in state["hosts"]:
        print(f"{host['name']:<8}{host['address']}")
    print(
        f"\nA shell on the laptop:  python -m tests.cluster.hosts shell\n"
        f"There:                  ssh h1    (as root, with {KEY}; home is {HOME})\n"
        f"A program on a host:    python -m tests.cluster.hosts exec h1 -- ip address\n"
        f"The same for all hosts: {', '.join(state['shared']) or 'nothing (up --share FOLDER)'}\n"
        f"End:                    python -m tests.cluster.hosts down"
    )
    return 0


def down(options: argparse.Namespace) -> int:
    """End the keeping process, and with it all there is of the hosts."""
    state = _state()
    if state is None:
        print("No hosts are up.")
        return 0
    keeper = int(state["keeper"])
    os.kill(keeper, signal.SIGTERM)
    end = time.monotonic() + END_S
    while _keeps(keeper):
        if time.monotonic() > end:
            os.kill(keeper, signal.SIGKILL)
        time.sleep(0.05)
    STATE.unlink(missing_ok=True)
    print("The hosts are gone.")
    return 0


def execute(options: argparse.Namespace) -> int:
    """Run a program on one host, with our own terminal."""
    state = _state()
    if state is None:
        raise HostsError("no hosts are up; start some with: python -m tests.cluster.hosts up 3")
    known = {host["name"]: host for host in state["hosts"]}
    if options.host not in known:
        raise HostsError(f"there is no host {options.host}: there are {', '.join(known)}")
    terminal = {"TERM": os.environ.get("TERM", "dumb")}
    with Host(**known[options.host]).popen(options.argv, env=terminal, stdin=None) as process:
        while True:
            # Ctrl-C goes to the program too, which shares our terminal; what to do about it is its decision.
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()


def _state() -> dict[str, Any] | None:
    """What is up; a file left by a keeper that was killed says nothing."""
    try:
        state: dict[str, Any] = json.loads(STATE.read_text())
    except FileNotFoundError:
        return None
    return state if _keeps(int(state["keeper"])) else None


def _keeps(pid: int) -> bool:
    try:
        return b"tests.cluster.hosts\0keep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
