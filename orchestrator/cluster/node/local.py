"""`orchestrator up`: a cluster of this one machine, which stays until `orchestrator down`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.cluster.node import home, node, private
from orchestrator.cluster.node.home import Record
from orchestrator.cluster.node.mlflow_service import MlflowSettings
from orchestrator.cluster.node.node import Request, check_closed, free_port
from orchestrator.cluster.node.ray_service import LOOPBACK, RaySettings
from orchestrator.errors import MachineError
from orchestrator.tracking.store import in_storage

INSTALL = "pip install -c constraints.txt 'orchestrator[node,tracking]'"


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalSettings:
    """What a person can say about it."""

    storage: str = "runs"
    """Whose MLflow store the server serves."""
    address: str = LOOPBACK
    token: bool = True
    mlflow: bool = True
    cpus: int | None = None
    gpus: int | None = None
    ray_port: int | None = None
    dashboard_port: int | None = None
    mlflow_port: int | None = None


def up(settings: LocalSettings, say: Callable[[str], None]) -> Record:
    """Start what does not run yet."""
    for package in ("ray", *(["mlflow", "flask_wtf"] if settings.mlflow else [])):
        if importlib.util.find_spec(package) is None:
            raise MachineError(f"{package} is not installed here.", f"Install it: {INSTALL}")
    token = private.new_token() if settings.token else ""
    check_closed(settings.address, token)
    node.clear_dead(home.THIS_MACHINE)  # first of all: it may hold the ports that we would like
    with node.looking_for_ports():
        return node.up(_request(settings, token), say)


def _request(settings: LocalSettings, token: str) -> Request:
    address = settings.address
    has = {"CPU": settings.cpus, "GPU": settings.gpus}
    return Request(
        name=home.THIS_MACHINE,
        ray=RaySettings(
            address=address,
            head=f"{address}:{_port('ray_port', settings.ray_port, 6379, address)}",
            is_head=True,
            client_port=free_port(10001, address),
            dashboard_port=_port("dashboard_port", settings.dashboard_port, 8265, LOOPBACK),
            agent_port=free_port(52365, address),
            resources={name: amount for name, amount in has.items() if amount is not None},
        ),
        mlflow=_mlflow(settings) if settings.mlflow else None,
        token=token,
        password=private.new_password(),
    )


def _port(what: str, asked: int | None, preferred: int, address: str) -> int:
    """The port that was asked for; else the usual one, or any free one: nobody has to remember it."""
    return asked or free_port(preferred, address)


def _mlflow(settings: LocalSettings) -> MlflowSettings:
    """The store of the storage folder: its runs are on the server's page, and stay where they are when it is down."""
    store = in_storage(settings.storage)
    return MlflowSettings(
        database=str(store.database),
        artifacts=store.artifact_root or "",
        port=_port("mlflow_port", settings.mlflow_port, 5000, LOOPBACK),
        proxied=False,
    )
