"""Ray's address: its form, and whether anybody answers there."""

from __future__ import annotations

import socket

from orchestrator.errors import MachineError

HINT = "Give Ray's address as HOST:PORT (the port is 6379 unless set otherwise), or start it with: ray start --head."
KNOCK_TIMEOUT_S = 10.0


def check_answers(address: str) -> None:
    """Knock at the cluster's door first: Ray itself would wait for minutes where nobody answers."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise MachineError(f"cluster.address={address} is not an address of Ray.", HINT)
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MachineError(f"Ray at cluster.address={address} cannot be reached: {reason}.", HINT) from error
