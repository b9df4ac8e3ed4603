"""How MLflow's client signs in to a server that we started: by a file, so that no password is in any environment.

MLflow finds `SignIn` by the name in MLFLOW_TRACKING_AUTH, through the entry point in pyproject.toml. The password goes
to the server that it belongs to, and to no other that the same process may talk to.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import TrackingError

PROVIDER = "orchestrator"
"""The value of MLFLOW_TRACKING_AUTH."""
LOGIN = "ORCHESTRATOR_MLFLOW_LOGIN"
"""The variable that names the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """Who signs in where."""

    url: str
    username: str
    password: str

    @classmethod
    def read(cls, file: Path) -> Login:
        """From the file that the start of the server left."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TrackingError(
                f"The login for MLflow in {file} cannot be read: {reason}.",
                f"Is its cluster still up (orchestrator status)? Otherwise unset MLFLOW_TRACKING_AUTH and {LOGIN}.",
            ) from error


class BasicAuth:
    """Adds user and password to requests for one server."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def __call__(self, request: Any) -> Any:
        """Called by `requests` with each request before it is sent."""
        if request.url == self._login.url or request.url.startswith(f"{self._login.url}/"):
            pair = f"{self._login.username}:{self._login.password}".encode()
            request.headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return request


class SignIn:
    """What MLflow asks for a way to sign in."""

    def get_name(self) -> str:
        """Our name in MLFLOW_TRACKING_AUTH."""
        return PROVIDER

    def get_auth(self) -> BasicAuth:
        """Read anew each time: the server may have been started again since."""
        return BasicAuth(Login.read(Path(os.environ.get(LOGIN, ""))))
