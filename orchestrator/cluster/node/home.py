"""Where the files of a cluster lie on one of its machines: ~/.orchestrator/clusters/NAME, for the owner alone."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.cluster.node import private
from orchestrator.errors import ConfigError

THIS_MACHINE = "local"
"""Name of the cluster that `orchestrator up` starts."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What was started on this machine, as later commands need to know it. No secret is in it."""

    name: str
    role: str
    """`head` or `worker`."""
    address: str
    """This machine's, as the other nodes reach it."""
    ray: str
    """Ray's address: HOST:PORT of the head."""
    dashboard: str = ""
    mlflow: str = ""
    """URL of the MLflow server; empty where there is none."""
    server: dict[str, Any] = field(default_factory=dict)
    """How MLflow's server was started, to start it again; empty where there is none."""
    scratch: str = ""
    """Ray's folder for sockets and logs: short, since the names of sockets are limited."""
    tls: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    """What a process needs to be set to use the cluster: paths and addresses."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one cluster."""

    folder: Path

    @property
    def record(self) -> Path:
        """Says what was started; its presence says that something was."""
        return self.folder / "cluster.json"

    @property
    def token(self) -> Path:
        """Ray's token, in the form in which Ray reads it."""
        return self.folder / "token"

    @property
    def login(self) -> Path:
        """User and password for MLflow, for clients."""
        return self.folder / "mlflow-login.json"

    @property
    def mlflow_settings(self) -> Path:
        """What MLflow's server reads: among it, the password."""
        return self.folder / "mlflow-server.ini"

    @property
    def mlflow_users(self) -> Path:
        """The users of MLflow's server, with hashes of their passwords."""
        return self.folder / "mlflow-users.db"

    @property
    def tls(self) -> Path:
        """Folder of certificates."""
        return self.folder / "tls"

    def service(self, name: str) -> Path:
        """Which process keeps a service running."""
        return self.folder / f"{name}.json"

    def log(self, name: str) -> Path:
        """What a service printed."""
        return self.folder / f"{name}.log"

    def read(self) -> Record | None:
        """What was started here; None when nothing was."""
        try:
            return Record(**json.loads(self.record.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> None:
        """Note what is started, before it is: whatever happens then, `down` finds it."""
        private.write(self.record, json.dumps(asdict(record), indent=2))


def clusters() -> Path:
    """The folder of all clusters that this machine is part of."""
    return paths.own_home() / "clusters"


def remote() -> Path:
    """The folder of what it takes to use clusters that were started from here, on other machines."""
    return paths.own_home() / "remote"


def of(name: str) -> Home:
    """The folder of a cluster by its name."""
    check_name(name)
    return Home(clusters() / name)


def check_name(name: str) -> None:
    """Refuse what cannot name a folder."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"cluster_name={name!r} cannot name a cluster.",
            "Use letters, digits, dots, dashes and underscores, and begin with a letter or digit.",
        )


def known() -> list[Home]:
    """The clusters that were started on this machine and not taken down."""
    return [Home(record.parent) for record in sorted(clusters().glob("*/cluster.json"))]


def tidy() -> None:
    """Remove our own folders where nothing is left in them."""
    for folder in (clusters(), remote(), paths.own_home()):
        with contextlib.suppress(OSError):
            folder.rmdir()
