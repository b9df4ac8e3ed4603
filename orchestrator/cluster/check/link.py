"""How well one host reaches another over TCP: whether it does, how long a message takes, how much goes through.

Sent to the nodes of a cluster as it is (see check_ray), so it stands alone: only the standard library.
"""

from __future__ import annotations

import contextlib
import hmac
import socket
import statistics
import struct
import threading
import time
from typing import Any

CONNECT_S = 5.0
MESSAGES_S = 5.0
"""Longest wait for a connection, and for any piece of what is sent through it."""
PINGS = 30
FIRST_SIZE, LAST_SIZE = 2**18, 2**30
LONG_ENOUGH_S = 0.15
"""Sizes are doubled until sending takes so long; shorter times say more about the processes than about the network."""
CHUNK = 2**18
HEADER = "!cQ"
PING, SEND = b"p", b"s"


class Listener:
    """Answers those who know the key, at a port of its own, until the process ends."""

    def __init__(self, address: str, key: bytes) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family, backlog=64)
        self._key = key
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            # Longer than the other side waits, so that it is the one that says why.
            _prepare(connection, 2 * MESSAGES_S)
            if not hmac.compare_digest(_receive(connection, len(self._key)), self._key):
                return
            while True:
                kind, size = struct.unpack(HEADER, _receive(connection, struct.calcsize(HEADER)))
                if kind == SEND:
                    _drain(connection, size)
                connection.sendall(struct.pack(HEADER, kind, size))


def measure(address: str, port: int, key: bytes) -> dict[str, Any]:
    """From here to a listener: seconds there and back, bytes per second; or at what it failed, and why."""
    stage = "connect"
    try:
        with socket.create_connection((address, port), timeout=CONNECT_S) as connection:
            _prepare(connection)
            stage = "small"
            connection.sendall(key)
            latency = statistics.median(_exchange(connection, PING, 0) for _ in range(PINGS))
            stage = "large"
            return {"latency": latency, "bandwidth": _bandwidth(connection)}
    except OSError as error:
        return {"failed": stage, "why": error.strerror or str(error) or type(error).__name__}


def _prepare(connection: socket.socket, timeout: float = MESSAGES_S) -> None:
    connection.settimeout(timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _bandwidth(connection: socket.socket) -> float:
    size = FIRST_SIZE
    while True:
        took = _exchange(connection, SEND, size)
        if took >= LONG_ENOUGH_S or size >= LAST_SIZE:
            return size / took
        size *= 2


def _exchange(connection: socket.socket, kind: bytes, size: int) -> float:
    began = time.perf_counter()
    connection.sendall(struct.pack(HEADER, kind, size))
    chunk = memoryview(bytes(CHUNK))
    for offset in range(0, size, CHUNK):
        connection.sendall(chunk[: size - offset])
    _receive(connection, struct.calcsize(HEADER))
    return time.perf_counter() - began


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionResetError("the other side ended the connection")
        parts += part
    return bytes(parts)


def _drain(connection: socket.socket, size: int) -> None:
    room = memoryview(bytearray(CHUNK))
    while size:
        taken = connection.recv_into(room, min(size, len(room)))
        if not taken:
            raise ConnectionResetError("the other side ended the connection")
        size -= taken
