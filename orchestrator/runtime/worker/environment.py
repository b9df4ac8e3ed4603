"""What a person's code finds in its environment: variables of the plan, and secrets from where the node keeps them."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from orchestrator.config.schema import Environment, SecretRef
from orchestrator.errors import MachineError


def give(spec: Mapping[str, Any], env: MutableMapping[str, str]) -> None:
    """Set what a plan's config asks for. No secret comes into a message, a log or a record."""
    environment = Environment(**spec.get("environment", {}))
    secrets = {name: resolve(name, secret, env) for name, secret in environment.references().items()}
    env.update(environment.variables)
    env.update(secrets)


def resolve(name: str, secret: SecretRef, env: Mapping[str, str]) -> str:
    """The secret itself."""
    try:
        if found := _look(secret, env):
            return found
        reason = "it is empty, or not there"
    except OSError as error:
        reason = error.strerror or str(error)
    except ImportError:
        reason = "the package keyring is not installed"
    where = f"the {secret.kind} {secret.place} cannot be used on {socket.gethostname()}"
    raise MachineError(
        f"environment.secrets.{name}: {where}: {reason}.",
        "Put it there on every node, or name another place.",
    )


def _look(secret: SecretRef, env: Mapping[str, str]) -> str:
    if secret.kind == "file":
        return Path(secret.place).expanduser().read_text(encoding="utf-8").strip()
    if secret.kind == "env":
        return env.get(secret.place, "")
    keyring = importlib.import_module("keyring")
    service, _, user = secret.place.partition("/")
    return keyring.get_password(service, user) or ""
