"""One machine's part in a cluster: its services started, looked at and ended. The same code here and on other machines.

Elsewhere it is called over SSH, as `python -m orchestrator.cluster.node.node VERB`: the request comes as JSON on
standard input, so that no secret stands on a command line, and the answer goes as one line of JSON to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.cluster.node import home, mlflow_service, private, ray_service, services
from orchestrator.cluster.node.home import Home, Record
from orchestrator.cluster.node.mlflow_service import MlflowSettings
from orchestrator.cluster.node.ray_service import RaySettings
from orchestrator.errors import ConfigError, MachineError, OrchestratorError
from orchestrator.tracking.login import Login

AUTHORITY = ("ca.pem", "ca.key")
"""Files of the certificate authority; only the head has both."""
PORTS_TIMEOUT_S = ray_service.START_TIMEOUT_S + mlflow_service.START_TIMEOUT_S
ANSWER = "answer: "
"""Begins the line with the answer; programs of a person's shell start-up may print lines of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to run on one machine."""

    name: str
    ray: RaySettings
    mlflow: MlflowSettings | None = None
    token: str = ""
    """Empty: no token, which is only allowed where nobody else reaches the machine."""
    password: str = ""
    tls: dict[str, str] = field(default_factory=dict)
    """Certificates and key by file name; empty: no TLS."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Request:
        """What `asdict` made of it."""
        mlflow = data.pop("mlflow")
        settings = MlflowSettings(**mlflow).at_home() if mlflow else None
        return cls(ray=RaySettings(**data.pop("ray")), mlflow=settings, **data)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What a machine says of its part."""

    record: dict[str, Any] | None
    """None: nothing was started here."""
    services: dict[str, bool] = field(default_factory=dict)
    """Which of them run."""

    @property
    def up(self) -> bool:
        """Whether all that was started still runs."""
        return bool(self.services) and all(self.services.values())


# --- up --------------------------------------------------------------------------------------------------------------
def up(request: Request, say: Callable[[str], None] = lambda line: None) -> Record:
    """Start what does not run yet. When this returns, it is ready; when it raises, what it started is ended again."""
    check_closed(request.ray.address, request.token)
    if request.mlflow and not request.password:
        raise ConfigError("MLflow's server would ask nobody for a password.", "Give it one, or start none.")
    place = home.of(request.name)
    with _alone():
        _clear_dead(place)
        before = place.read()
        if before:
            request = _as_before(place, request, before)
        missing = [name for name in _wanted(request) if not services.lives(place, name)]
        if before and not missing:
            return before
        try:
            _check_ports(request, missing)
            record = before or _prepare(place, request)
            _start(place, request, record, missing, say)
        except BaseException:
            if before is None:
                _take_down(place)
            raise
        return record


def clear_dead(name: str) -> None:
    """Remove what is left of a Ray that died, or went with the machine's last boot: it is of no use to a new one."""
    with _alone():
        _clear_dead(home.of(name))


def _clear_dead(place: Home) -> None:
    if place.folder.exists() and not services.lives(place, ray_service.NAME):
        _take_down(place)


def _as_before(place: Home, request: Request, before: Record) -> Request:
    """Where Ray runs on, its cluster stays what it is: what is missing of it is started as it was."""
    server = MlflowSettings(**before.server) if before.server else None
    password = Login.read(place.login).password if server and place.login.exists() else request.password
    return replace(request, mlflow=server, password=password)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process at a time changes what runs here. Folders that it leaves empty go."""
    try:
        with private.locked(home.clusters()):
            yield
    finally:
        home.tidy()


@contextlib.contextmanager
def looking_for_ports() -> Iterator[None]:
    """Keep others on this machine from taking the same free ports, until what we start listens on ours."""
    with private.alone_on_machine("ports", PORTS_TIMEOUT_S):
        yield


def _wanted(request: Request) -> list[str]:
    return [ray_service.NAME, *([mlflow_service.NAME] if request.mlflow else [])]


def check_closed(address: str, token: str) -> None:
    """Whoever reaches Ray can run code as us: without a token nobody but this machine may reach it."""
    if not token and not ray_service.is_loopback(address):
        raise ConfigError(
            f"Ray at {address} could be used by everybody who reaches that address: there is no token.",
            "Leave the token on, or use 127.0.0.1.",
        )


def _check_ports(request: Request, missing: list[str]) -> None:
    """Refuse at once what would fail after some seconds, in Ray's words."""
    wanted: list[tuple[str, str, int]] = []
    if ray_service.NAME in missing and request.ray.is_head:
        wanted += [
            ("ray_port", request.ray.address, int(request.ray.head.rpartition(":")[2])),
            ("client_port", request.ray.address, request.ray.client_port),
            ("dashboard_port", ray_service.LOOPBACK, request.ray.dashboard_port),
        ]
    if ray_service.NAME in missing:
        wanted.append(("agent_port", request.ray.address, request.ray.agent_port))
    if request.mlflow and mlflow_service.NAME in missing:
        wanted.append(("mlflow_port", request.mlflow.host, request.mlflow.port))
    for what, address, port in wanted:
        check_port(what, address, port)


def check_port(what: str, address: str, port: int) -> None:
    """Refuse a port on which somebody listens already."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise MachineError(
                f"Port {port} ({what}) of {address} cannot be used on {socket.gethostname()}: {error.strerror}.",
                f"End what uses it (ss -ltnp 'sport = :{port}' names it), or set another {what}.",
            ) from error


def free_port(preferred: int, address: str = ray_service.LOOPBACK) -> int:
    """A port on which nobody listens: the preferred one, or any."""
    try:
        check_port("", address, preferred)
        return preferred
    except MachineError as taken:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            try:
                probe.bind((address, 0))
            except OSError as error:
                raise MachineError(
                    f"{address} cannot be used on {socket.gethostname()}: {error.strerror}.",
                    "Use an address that this machine has: ip -brief address",
                ) from taken
            return int(probe.getsockname()[1])


def _prepare(place: Home, request: Request) -> Record:
    """Write all files that the services read, the record first."""
    ray, mlflow, tls = request.ray, request.mlflow, bool(request.tls)
    address = mlflow_service.url(mlflow, tls=tls) if mlflow else ""
    access = ray_service.access(place, ray.address, token=bool(request.token), tls=tls)
    access["RAY_ADDRESS"] = ray.head
    if mlflow:
        access |= mlflow_service.access(place, address, tls=tls)
    record = Record(
        name=request.name,
        role="head" if ray.is_head else "worker",
        address=ray.address,
        ray=ray.head,
        dashboard=f"http://{ray_service.LOOPBACK}:{ray.dashboard_port}" if ray.is_head else "",
        mlflow=address,
        server=asdict(mlflow) if mlflow else {},
        scratch=tempfile.mkdtemp(prefix="orchestrator-cluster-", dir="/tmp"),
        tls=tls,
        environment=access,
    )
    place.write(record)
    if request.token:
        private.write(place.token, request.token)
    for name, text in request.tls.items():
        private.write(place.tls / name, text)
    return record


def _start(place: Home, request: Request, record: Record, missing: list[str], say: Callable[[str], None]) -> None:
    """Start Ray and MLflow's server at the same time, and wait for both."""
    starts: list[Callable[[], None]] = []
    if ray_service.NAME in missing:
        starts.append(lambda: _start_ray(place, request, record, say))
    if request.mlflow and mlflow_service.NAME in missing:
        settings = request.mlflow
        starts.append(lambda: _start_mlflow(place, settings, request.password, record, say))
    with ThreadPoolExecutor(len(starts)) as pool:
        for done in [pool.submit(start) for start in starts]:
            done.result()


def _start_ray(place: Home, request: Request, record: Record, say: Callable[[str], None]) -> None:
    begun = time.monotonic()
    # Ray opens its folder to everybody, so it lies in one that is not.
    argv = ray_service.command(request.ray, f"{record.scratch}/ray")
    env = ray_service.environment(record.environment, record.scratch)
    process = services.start(place, ray_service.NAME, argv, env)
    log = place.log(ray_service.NAME)
    ready, limit = (lambda: ray_service.started(log)), ray_service.START_TIMEOUT_S
    services.wait(place, ray_service.NAME, process, ready, limit)
    say(f"Ray runs at {record.ray} ({time.monotonic() - begun:.0f} s)")


def _start_mlflow(
    place: Home, settings: MlflowSettings, password: str, record: Record, say: Callable[[str], None]
) -> None:
    from orchestrator.tracking import sqlite

    begun = time.monotonic()
    private.make_folder(Path(settings.database).parent)
    artifacts = "mlflow-artifacts:/" if settings.proxied else settings.artifacts
    sqlite.prepare(Path(settings.database), artifact_root=artifacts, migrate=True)
    mlflow_service.write_secrets(place, settings, password, tls=record.tls)
    argv = mlflow_service.command(place, settings, tls=record.tls)
    env = mlflow_service.environment(place, settings, record.scratch)
    process = services.start(place, mlflow_service.NAME, argv, env)
    ready, limit = (lambda: mlflow_service.answers(place, record.mlflow)), mlflow_service.START_TIMEOUT_S
    services.wait(place, mlflow_service.NAME, process, ready, limit)
    say(f"MLflow runs at {record.mlflow} ({time.monotonic() - begun:.0f} s)")


# --- down and status -------------------------------------------------------------------------------------------------
def down(name: str) -> Record | None:
    """End all that was started here, and remove all files but MLflow's records. Returns what there was."""
    place = home.of(name)
    if not place.folder.exists():
        return None
    with _alone():
        record = place.read()
        _take_down(place)
    return record


def _take_down(place: Home) -> None:
    _stop_all(place)
    record = place.read()
    if record:
        _remove_scratch(record)
    private.remove(place.folder)


def _stop_all(place: Home) -> None:
    """MLflow last: a driver that ends with Ray may still send what it has."""
    for name in (ray_service.NAME, mlflow_service.NAME):
        services.stop(place, name)


def _remove_scratch(record: Record) -> None:
    if record.scratch:
        shutil.rmtree(record.scratch, ignore_errors=True)


def status(name: str) -> State:
    """What was started here, and whether it runs."""
    place = home.of(name)
    record = place.read()
    if record is None:
        return State(record=None)
    names = [ray_service.NAME, *([mlflow_service.NAME] if record.mlflow and record.role == "head" else [])]
    return State(record=asdict(record), services={service: services.lives(place, service) for service in names})


# --- over SSH --------------------------------------------------------------------------------------------------------
def main(verb: str) -> int:
    """Carry out one request from standard input."""
    try:
        data = json.load(sys.stdin)
        result = VERBS[verb](data)
    except OrchestratorError as error:
        kind = type(error).__name__
        print(ANSWER + json.dumps({"error": {"type": kind, "message": error.message, "hint": error.hint}}))
        return 1
    print(ANSWER + json.dumps(result))
    return 0


def _down(data: dict[str, Any]) -> dict[str, Any]:
    record = down(data["name"])
    return {"record": asdict(record) if record else None}


def _secrets(data: dict[str, Any]) -> dict[str, Any]:
    """What a head that is up was started with, for the start of more machines; empty where it is not up."""
    place = home.of(data["name"])
    if not services.lives(place, ray_service.NAME):
        return {}
    return {
        "token": private.read(place.token) if place.token.exists() else "",
        "password": Login.read(place.login).password if place.login.exists() else "",
        "authority": {name: private.read(place.tls / name) for name in AUTHORITY if (place.tls / name).exists()},
    }


def _roll_call(data: dict[str, Any]) -> dict[str, Any]:
    place = home.of(data["name"])
    record = place.read()
    if record is None or not services.lives(place, ray_service.NAME):
        return {"members": []}
    os.environ.update(record.environment)  # Ray reads it when it is imported
    from orchestrator.cluster.launch import roll_call

    found = roll_call.wait(record.ray, data["expected"], data["timeout_s"])
    return {"members": roll_call.to_dicts(found)}


def _up(data: dict[str, Any]) -> dict[str, Any]:
    with looking_for_ports():
        return asdict(up(Request.from_dict(data)))


VERBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "up": _up,
    "down": _down,
    "status": lambda data: asdict(status(data["name"])),
    "secrets": _secrets,
    "roll_call": _roll_call,
}

if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1]))
