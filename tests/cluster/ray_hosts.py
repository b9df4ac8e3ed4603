"""Ray on hosts for tests, started by hand as a person would: no launcher of ours is involved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.cluster.hosts import ROOT, Host

BIN = Path(sys.prefix) / "bin"
ORCHESTRATOR, RAY = BIN / "orchestrator", BIN / "ray"
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
FEW = ["--num-cpus=1", f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"]
START_S = 120


def start_head(host: Host, *options: str, env: dict[str, str] | None = None) -> str:
    """Start the head; its address."""
    own = ["--head", f"--node-ip-address={host.address}", "--include-dashboard=false"]
    ray(host, "start", *own, *FEW, *options, env=env)
    return f"{host.address}:6379"


def join(host: Host, address: str, *options: str, env: dict[str, str] | None = None) -> None:
    """Start Ray on a further host."""
    ray(host, "start", f"--address={address}", f"--node-ip-address={host.address}", *FEW, *options, env=env)


def ray(host: Host, *words: str, env: dict[str, str] | None = None) -> None:
    """Call Ray's own command line."""
    host.run([RAY, *words], env={**ENVIRONMENT, **(env or {})}, check=True, timeout=START_S)


def orchestrator(host: Host, *words: str, **options: Any) -> Any:
    """Call our command line on a host, in the project's folder."""
    options = {"env": ENVIRONMENT, "cwd": ROOT, "timeout": 200, **options}
    return host.run([ORCHESTRATOR, *words], **options)
