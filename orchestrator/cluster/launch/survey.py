"""What a machine is like before anything is started on it: looked at over SSH, with nothing of ours on it yet."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.cluster.launch.ssh import last_line, shell_line
from orchestrator.errors import MachineError

MIB = 2**20
LEAST_FREE = 512 * MIB
"""Room that Ray and we need on a machine, at the least."""
Shell = Callable[..., subprocess.CompletedProcess[bytes]]
"""Runs a line of shell on a machine: `shell(address, line, data=b"")`."""
NOT_FOUND = (126, 127)
"""Exit codes of a shell that could not start a program."""

LOOK = """
import importlib.metadata as m, json, os, platform, shutil, socket, sys
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return ""
def text(path):
    try: return open(path).read()
    except OSError: return ""
home = os.path.expanduser("~")
print("survey: " + json.dumps({
    "python": platform.python_version(), "host": socket.gethostname(), "home": home,
    "free": {path: shutil.disk_usage(path).free for path in (home, "/tmp")},
    "versions": {name: version(name) for name in ("orchestrator", "ray", "torch", "deepspeed", "mlflow")},
    "installed": text(sys.argv[1]),
    "started": os.path.exists(sys.argv[2]),
}))
"""
"""Run by the machine's Python, whichever it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What was found on one machine."""

    address: str
    python: str
    host: str
    home: str
    free: dict[str, int]
    """Bytes by folder."""
    versions: dict[str, str]
    """Of packages; empty text where one is not there."""
    installed: str
    """What the environment that we made says of itself; empty where there is none."""
    started: bool = False
    """Its part of the cluster was started, and not ended."""


def look(shell: Shell, address: str, python: str, asked: list[str], where: str = "") -> Survey:
    """Ask one machine, in the words of its own Python; `asked`: the files behind `installed` and `started`."""
    line = f"exec {shell_line([python, '-I', '-', *asked])}"
    done = shell(address, line, data=LOOK.encode())
    if done.returncode in NOT_FOUND:
        raise MachineError(
            f"{address}: there is no Python at {python}{where}.",
            "Name one that is there: metadata.orchestrator.environment or .python in cluster.yaml.",
        )
    answers = [text for text in done.stdout.decode(errors="replace").splitlines() if text.startswith("survey: ")]
    if not answers:
        raise MachineError(f"{address}: {python} cannot be used: {last_line(done.stderr)}.", f"To try: {line}")
    data: dict[str, Any] = json.loads(answers[0].removeprefix("survey: "))
    return Survey(address=address, **data)


def check_room(survey: Survey, least: int = LEAST_FREE) -> None:
    """Refuse a machine whose disk is full before something on it fails with a stranger error."""
    for path, free in survey.free.items():
        if free < least:
            raise MachineError(
                f"{survey.address}: {free / MIB:.0f} MiB are free in {path}, and {least / MIB:.0f} MiB are needed.",
                "Make room there.",
            )


def check_alike(surveys: list[Survey], *, named: bool) -> None:
    """Refuse machines that Ray would refuse: another Python or Ray than the first one's, the head's."""
    if not surveys:
        return
    head, *workers = surveys
    for survey in workers:
        _same(survey.address, "Python", survey.python, head.python)
    if named:
        for survey in surveys:
            for package in ("orchestrator", "ray"):
                if not survey.versions[package]:
                    raise MachineError(
                        f"{survey.address}: the environment named in cluster.yaml has no {package}.",
                        "Install it there, or leave out metadata.orchestrator.environment: then one is made.",
                    )
        for survey in workers:
            for package in ("ray", "orchestrator"):
                _same(survey.address, package, survey.versions[package], head.versions[package])


def _same(address: str, what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise MachineError(
            f"{address}: {what} is {found}, and the head has {wanted}.", "Machines of one cluster need the same."
        )
