"""A way to a server that can be made bad in many manners."""

from __future__ import annotations

import threading
import time
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mode = Literal["pass", "500", "unanswered", "slow", "refused"]


class FlakyWay:
    """Listens on a port of its own and passes requests on. `mode`:

    - 500: answers that, and passes nothing on;
    - unanswered: passes on, and hangs up without the answer;
    - slow: passes on, and answers later than any client waits;
    - refused: does not even listen.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: ThreadingHTTPServer | None = None
        self._own_port = 0
        self._mode: Mode = "pass"
        self.seen: Counter[str] = Counter()
        """How many requests came in each mode."""
        self._listen()

    @property
    def uri(self) -> str:
        """Where to come."""
        return f"http://127.0.0.1:{self._own_port}"

    def set(self, mode: Mode) -> None:
        """From now on."""
        if mode == "refused":
            self.close()
        elif self._mode == "refused":
            self._listen()
        self._mode = mode

    def close(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _listen(self) -> None:
        way = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                way._handle(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._own_port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._own_port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        mode = self._mode
        self.seen[mode] += 1
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if mode == "500":
            request.send_error(500)
            return
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(request.command, request.path, body, dict(request.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if mode == "unanswered":
            request.close_connection = True
            return
        if mode == "slow":
            time.sleep(8)
        request.send_response(answer.status)
        request.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
