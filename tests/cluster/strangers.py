"""What Ray's own clients get without the token: `python strangers.py DOOR ADDRESS` prints the error, or what it got."""

from __future__ import annotations

import sys
from typing import Any


def ledger(address: str) -> Any:
    """Ray's ledger, by the client that all of Ray uses."""
    from ray import _raylet

    compiled: Any = _raylet
    return compiled.GcsClient(address=address).get_all_node_info(timeout=10)


def client(address: str) -> Any:
    """Ray's client for other machines."""
    from ray.util.client import ray

    return ray.connect(address, connection_retries=1)


if __name__ == "__main__":
    door, address = sys.argv[1:]
    try:
        got = {"ledger": ledger, "client": client}[door](address)
    except Exception as error:  # noqa: BLE001  the error is what is asked for
        print(f"refused: {type(error).__name__}: {error}")
    else:
        print(f"got in: {got}")
