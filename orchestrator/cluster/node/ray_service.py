"""Ray on one machine: how it is started, closed to those without the token, and told to notice faults soon."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cluster.node.home import Home
from orchestrator.foundation.environment import TELEMETRY_OFF

NAME = "ray"
STARTED = "Ray runtime started."
"""What `ray start` prints when its processes run."""
START_TIMEOUT_S = 90.0
LOOPBACK = "127.0.0.1"
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without it, Ray takes 127.0.0.1 as a wish to be reached from everywhere, and replaces it by another address. All
processes that use such a Ray need it too."""

FAULTS = {
    # The head asks every node each second whether it lives, gives it 2 s to answer, and gives it up after 3 silences: a
    # host that was cut off is noticed within 9 s (Ray's own settings: 60 s). Nodes answer from a thread that needs no
    # more than a moment of CPU, so that a busy one is not taken for dead: measured in docs/clusters.md.
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""What decides how soon the loss of a node is noticed. It belongs to the head, for the life of the cluster."""

CLOSED = {
    # Prometheus' pages ask nobody for a token.
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
}
OBJECT_STORE_BYTES = 2**30
"""Nothing of ours goes through Ray's object store; this leaves room for a person's own use."""
TLS_FILES = {
    "RAY_TLS_CA_CERT": "ca.pem",
    "RAY_TLS_SERVER_CERT": "node.pem",
    "RAY_TLS_SERVER_KEY": "node.key",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySettings:
    """How Ray is started on one machine."""

    address: str
    """This machine's own."""
    head: str
    """HOST:PORT of the head."""
    is_head: bool
    client_port: int = 10001
    dashboard_port: int = 8265
    agent_port: int = 52365
    object_store_memory: int = OBJECT_STORE_BYTES
    resources: dict[str, float] = field(default_factory=dict)
    """What the machine has, in Ray's words (CPU, GPU, memory, others); what is not named is counted by Ray."""
    labels: dict[str, str] = field(default_factory=dict)


def is_loopback(address: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def command(settings: RaySettings, scratch: str) -> list[str]:
    """The program that runs Ray's processes, and ends them when it is ended."""
    # Not Ray's own script: it may have been installed for another Python.
    start = "from ray.scripts.scripts import main; main()"
    port = settings.head.rpartition(":")[2]
    role = ["--head", "--port", port] if settings.is_head else ["--address", settings.head]
    words = [sys.executable, "-P", "-c", start, "start", "--block", *role]
    words += ["--node-ip-address", settings.address, "--object-store-memory", str(settings.object_store_memory)]
    words += ["--dashboard-agent-listen-port", str(settings.agent_port), "--temp-dir", scratch, "--disable-usage-stats"]
    if settings.is_head:
        words += ["--dashboard-host", LOOPBACK, "--dashboard-port", str(settings.dashboard_port)]
        words += ["--ray-client-server-port", str(settings.client_port), "--no-monitor"]
    return [*words, *_has(settings)]


def _has(settings: RaySettings) -> list[str]:
    flags = {"CPU": "--num-cpus", "GPU": "--num-gpus", "memory": "--memory"}
    words = []
    for name, flag in flags.items():
        if name in settings.resources:
            words += [flag, str(int(settings.resources[name]))]
    other = {name: amount for name, amount in settings.resources.items() if name not in flags}
    if other:
        words += ["--resources", json.dumps(other)]
    if settings.labels:
        words += ["--labels", ",".join(f"{key}={value}" for key, value in settings.labels.items())]
    return words


def access(home: Home, address: str, *, token: bool, tls: bool) -> dict[str, str]:
    """What every process that talks to this Ray needs in its environment; paths of secrets, and no secret."""
    settings = dict(LOOPBACK_ONLY) if is_loopback(address) else {}
    if token:
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home.token)}
    else:
        settings |= {"RAY_AUTH_MODE": "disabled"}
    if tls:
        settings |= {"RAY_USE_TLS": "1"} | {name: str(home.tls / file) for name, file in TLS_FILES.items()}
    return settings


def environment(access: Mapping[str, str], scratch: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of Ray's processes, which workers inherit: a person's own, less what would lead them astray."""
    own = {key: value for key, value in env.items() if not key.startswith(("RAY_", "MLFLOW_", "ORCHESTRATOR_"))}
    return {**own, **TELEMETRY_OFF, **FAULTS, **CLOSED, **access, **leavings(scratch, env)}


def leavings(scratch: str, env: Mapping[str, str]) -> dict[str, str]:
    """Where processes of a cluster leave files, so that these go with it: temporary ones, and matplotlib's fonts."""
    return {"TMPDIR": scratch, "MPLCONFIGDIR": env.get("MPLCONFIGDIR") or f"{scratch}/matplotlib"}


def started(log: Path) -> bool:
    """Whether `ray start` has said that it is done."""
    try:
        return STARTED in log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
