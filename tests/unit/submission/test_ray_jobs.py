"""Talking to Ray Jobs: what is asked, and what each answer means."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.node.home import Record
from orchestrator.errors import MachineError
from orchestrator.submission.ray_jobs import RayJobs


class Head:
    """Answers as told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.asked: list[tuple[str, str, str | None, Any]] = []
        head = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = json.loads(body) if body else None
                head.asked.append((self.command, self.path, self.headers.get("Authorization"), asked))
                status, text = head.answers.pop(0)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def head() -> Iterator[Head]:
    head = Head()
    thread = threading.Thread(target=head.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield head
    head.server.shutdown()
    head.server.server_close()
    thread.join()


def cluster(port: int, token: Path | None = None) -> Record:
    environment = {"RAY_AUTH_TOKEN_PATH": str(token)} if token else {}
    dashboard = f"http://127.0.0.1:{port}"
    return Record(
        name="local", role="head", address="127.0.0.1", ray="127.0.0.1:1", dashboard=dashboard, environment=environment
    )


@pytest.fixture
def jobs(head: Head, tmp_path: Path) -> RayJobs:
    token = tmp_path / "token"
    token.write_text("abc\n")
    token.chmod(0o600)
    return RayJobs(cluster(head.server.server_port, token))


def test_what_is_handed_in(head: Head, jobs: RayJobs) -> None:
    head.answers = [(200, '{"submission_id": "a-a1"}')]
    assert jobs.submit("a-a1", "run it", {"run": "a"})
    body = {"entrypoint": "run it", "submission_id": "a-a1", "metadata": {"run": "a"}}
    assert head.asked == [("POST", "/api/jobs/", "Bearer abc", body)]


def test_a_known_id_is_no_error(head: Head, jobs: RayJobs) -> None:
    head.answers = [(500, "Traceback ...\nValueError: Job with submission_id a-a1 already exists. Please use another.")]
    assert not jobs.submit("a-a1", "run it", {})


def test_what_ray_tells(head: Head, jobs: RayJobs) -> None:
    head.answers = [
        (200, json.dumps({"status": "FAILED", "message": "m", "metadata": {"run": "a"}, "driver_exit_code": 3})),
        (200, json.dumps({"status": "PENDING", "message": None, "metadata": None})),
        (404, "not there"),
    ]
    over, waits = jobs.get("a-a1"), jobs.get("a-a1")
    assert over
    assert (over.is_over, over.exit_code, over.metadata) == (True, 3, {"run": "a"})
    assert waits
    assert not waits.is_over
    assert jobs.get("a-a1") is None


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (401, "Unauthorized", "does not know our token"),
        (403, "Forbidden", "does not know our token"),
        (500, "Traceback\nRuntimeError: no agent.\n", "did not take the job: RuntimeError: no agent."),
        (502, "", "did not take the job: status 502."),
    ],
)
def test_refusals(head: Head, jobs: RayJobs, status: int, text: str, told: str) -> None:
    head.answers = [(status, text)] * 3
    for ask in (lambda: jobs.submit("a-a1", "x", {}), lambda: jobs.get("a-a1"), lambda: jobs.stop("a-a1")):
        with pytest.raises(MachineError, match=told):
            ask()


def test_a_head_that_is_gone_is_named(head: Head) -> None:
    with pytest.raises(
        MachineError, match=r"The cluster local takes no jobs at http://127.0.0.1:1: Connection refused"
    ):
        RayJobs(cluster(1)).get("a-a1")


def test_other_machines_hand_in_nothing() -> None:
    worker = Record(name="lab", role="worker", address="10.0.0.2", ray="10.0.0.1:6379")
    with pytest.raises(MachineError, match="handed in on its head") as caught:
        RayJobs(worker)
    assert "--cluster" in caught.value.hint
