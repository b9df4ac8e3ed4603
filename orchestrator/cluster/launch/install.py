"""The pinned environment on other machines: a virtual environment, made from the constraints file and our own wheel."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from orchestrator import paths
from orchestrator.cluster.launch.cluster_spec import ClusterSpec
from orchestrator.cluster.launch.ssh import Connections, last_line
from orchestrator.cluster.launch.survey import MIB, Survey, check_room
from orchestrator.errors import MachineError
from orchestrator.project import wheel

TIMEOUT_S = 3600.0
ROOM = 3072 * MIB
"""torch alone takes one to five GiB."""
MARKER = "orchestrator.json"
"""Written into an environment when it is complete: what it was made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What an environment was made of; equal contents need no new one."""

    python: str
    pins: str
    extras: tuple[str, ...]
    code: str

    def others_match(self, told: str) -> bool:
        """Whether an environment differs at most in our own code."""
        have, want = _parsed(told), _parsed(json.dumps(asdict(self)))
        return bool(have) and {**have, "code": ""} == {**want, "code": ""}

    def matches(self, told: str) -> bool:
        """Whether an environment is this one."""
        return _parsed(told) == _parsed(json.dumps(asdict(self)))


def _parsed(told: str) -> dict[str, object]:
    try:
        parsed = json.loads(told)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


class Installer:
    """Brings this installation of orchestrator to machines."""

    def __init__(self, spec: ClusterSpec, connections: Connections) -> None:
        self._spec = spec
        self._connections = connections
        self._name, self._wheel = wheel.build()
        pins = paths.pins()
        self._pins = pins.read_bytes() if pins else b""

    def needed(self, survey: Survey) -> bool:
        """Whether a machine lacks the environment, or has an older one."""
        return not self._contents(survey).matches(survey.installed)

    def anew(self, survey: Survey) -> bool:
        """Whether a machine's environment has to be made from nothing."""
        return not self._contents(survey).others_match(survey.installed)

    def install(self, survey: Survey) -> None:
        """Make the environment, or bring it up to date."""
        contents = self._contents(survey)
        only_code = not self.anew(survey)
        if not only_code:
            check_room(survey, ROOM)
        folder = folder_of(self._spec.name, survey.home)
        parcel = str(PurePosixPath(folder).with_name(f"{self._spec.name}.parcel"))
        self._connections.put(survey.address, self._wheel, f"{parcel}/{self._name}")
        self._connections.put(survey.address, self._pins, f"{parcel}/constraints.txt")
        line = self._commands(folder, parcel, only_code=only_code)
        done = self._connections.shell(survey.address, line, timeout_s=TIMEOUT_S)
        if done.returncode:
            raise MachineError(
                f"{survey.address}: the environment could not be installed: {last_line(done.stderr)}.",
                f"The machine needs venv and a way to a package index. What failed: {line}",
            )
        self._connections.put(survey.address, json.dumps(asdict(contents)).encode(), f"{folder}/{MARKER}")

    def _commands(self, folder: str, parcel: str, *, only_code: bool) -> str:
        q = shlex.quote
        extras = f"[{','.join(self._spec.own.extras)}]" if self._spec.own.extras else ""
        pip = f"{q(f'{folder}/bin/python')} -m pip install --quiet --no-input --disable-pip-version-check"
        what = q(f"{parcel}/{self._name}{extras}")
        steps = [
            f"rm -f {q(f'{folder}/{MARKER}')}" if only_code else f"rm -rf {q(folder)}",
            *([] if only_code else [f"{q(self._spec.own.python)} -m venv {q(folder)}"]),
            f"{pip} --force-reinstall --no-deps {what}"
            if only_code
            else f"{pip} -c {q(f'{parcel}/constraints.txt')} {what}",
            f"rm -rf {q(parcel)}",
        ]
        return " && ".join(["umask 077", *steps])

    def _contents(self, survey: Survey) -> Contents:
        image = self._spec.image and self._spec.image.on(head=survey.address == self._spec.head)
        return Contents(
            python=f"{survey.python} of {image}" if image else survey.python,
            pins=hashlib.sha256(self._pins).hexdigest(),
            extras=self._spec.own.extras,
            code=hashlib.sha256(self._wheel).hexdigest(),
        )


def folder_of(name: str, user_home: str) -> str:
    """Where the environment of a cluster lies on its machines."""
    return f"{user_home}/.orchestrator/environments/{name}"


def remove(connections: Connections, address: str, name: str) -> None:
    """Remove the environment that we made, and our folders where nothing else is in them."""
    own = '"$HOME/.orchestrator"'
    folder = f"{own}/environments/{shlex.quote(name)}"
    line = f"rm -rf {folder} {folder}.parcel; rmdir {own}/environments {own} 2>/dev/null; true"
    connections.shell(address, line, timeout_s=300.0)
