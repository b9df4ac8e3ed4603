"""MLflow's server behind its own users and passwords: settings, start, and what its clients need."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from orchestrator.cluster.node import private
from orchestrator.cluster.node.home import Home
from orchestrator.foundation.environment import TELEMETRY_OFF
from orchestrator.tracking.login import LOGIN, PROVIDER

NAME = "mlflow"
USER = "admin"
START_TIMEOUT_S = 120.0
SETTINGS = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{users}
admin_username = {user}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
auth_cache_ttl_seconds = 300
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MlflowSettings:
    """One server."""

    database: str
    """SQLite file of the records."""
    artifacts: str
    """Folder of the artifacts."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 5000
    proxied: bool = True
    """Artifacts go through the server; otherwise clients, on this same machine, write them to the folder."""

    def at_home(self) -> MlflowSettings:
        """With `~` as the home of whoever runs this, on the machine that it is about."""
        here = {name: str(Path(getattr(self, name)).expanduser()) for name in ("database", "artifacts")}
        return replace(self, **here)  # type: ignore[arg-type]  # both are texts


def url(settings: MlflowSettings, *, tls: bool) -> str:
    """Where clients find the server."""
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if tls else 'http'}://{shown}:{settings.port}"


def write_secrets(home: Home, settings: MlflowSettings, password: str, *, tls: bool) -> None:
    """Write what the server and its clients read. Its users begin anew: who has no password of now has no access."""
    home.mlflow_users.unlink(missing_ok=True)
    users = str(home.mlflow_users).replace("%", "%%")
    private.write(home.mlflow_settings, SETTINGS.format(users=users, user=USER, password=password))
    write_login(home, settings, password, tls=tls)


def write_login(home: Home, settings: MlflowSettings, password: str, *, tls: bool) -> None:
    """Write what clients read."""
    login = {"url": url(settings, tls=tls), "username": USER, "password": password}
    private.write(home.login, json.dumps(login, indent=2))


def access(home: Home, address: str, *, tls: bool) -> dict[str, str]:
    """What a client of the server needs in its environment: paths, and no password."""
    settings = {"MLFLOW_TRACKING_URI": address, "MLFLOW_TRACKING_AUTH": PROVIDER, LOGIN: str(home.login)}
    if tls:
        settings["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(home.tls / "bundle.pem")
    return settings


def command(home: Home, settings: MlflowSettings, *, tls: bool) -> list[str]:
    """The server. One worker process: each costs half a gigabyte."""
    words = [sys.executable, "-P", "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{settings.database}"]
    words += ["--host", settings.host, "--port", str(settings.port)]
    if settings.proxied:
        words += ["--artifacts-destination", settings.artifacts]
    else:
        words += ["--default-artifact-root", settings.artifacts, "--no-serve-artifacts"]
    if tls:
        files = f"--ssl-keyfile {home.tls / 'node.key'} --ssl-certfile {home.tls / 'node.pem'}"
        words += ["--uvicorn-opts", files]
    return words


def environment(
    home: Home, settings: MlflowSettings, scratch: str, env: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The server's environment."""
    own = {key: value for key, value in env.items() if not key.startswith(("RAY_", "MLFLOW_", "ORCHESTRATOR_"))}
    names = sorted({settings.host, "127.0.0.1", "localhost"})
    return {
        **own,
        **TELEMETRY_OFF,
        "TMPDIR": scratch,
        "MLFLOW_AUTH_CONFIG_PATH": str(home.mlflow_settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        # A route for which nobody has decided who may use it is one that nobody may use.
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name}:{settings.port}" for name in names),
        # Eight processes of 240 MB each, for features of its GenAI pages.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def answers(home: Home, address: str) -> bool:
    """Whether the server answers."""
    trust = ssl.create_default_context(cafile=str(home.tls / "ca.pem")) if address.startswith("https") else None
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2, context=trust):
            return True
    except (urllib.error.URLError, OSError):
        return False


def records(settings: MlflowSettings) -> tuple[list[str], list[str]]:
    """The database, what lies beside it, and the artifacts; and the folders that are of no use without them."""
    beside = [f"{settings.database}{ending}" for ending in ("", "-wal", "-shm", ".lock", ".schema.json")]
    folder = PurePosixPath(settings.database).parent
    return [*beside, settings.artifacts], [str(folder), str(folder.parent)]
