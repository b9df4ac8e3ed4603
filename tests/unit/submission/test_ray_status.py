"""Ray's word on a job's driver: asked when there is somebody to ask, and never waited for."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.cluster.node import home
from orchestrator.cluster.node.home import Record
from orchestrator.records.finder import Subject
from orchestrator.records.status import RayWord
from orchestrator.submission import ray_status
from tests.unit.records.stories import submit


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ray_status, "_answers", {})


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    job = submit(tmp_path / "runs")
    return Subject(job.id, job.root)


def cluster_at(port: int) -> None:
    """The record of a cluster whose head listens there, or not."""
    record = Record(
        name="local", role="head", address="127.0.0.1", ray="127.0.0.1:1", dashboard=f"http://127.0.0.1:{port}"
    )
    home.of("local").write(record)


class Head:
    """Answers as Ray's dashboard does."""

    def __init__(self) -> None:
        self.answer: tuple[int, object] = (404, {})
        self.asked: list[str] = []
        head = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                head.asked.append(self.path)
                body = json.dumps(head.answer[1]).encode()
                self.send_response(head.answer[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        cluster_at(self.server.server_port)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def head() -> Iterator[Head]:
    head = Head()
    yield head
    head.server.shutdown()
    head.server.server_close()


def test_what_ray_says(subject: Subject, head: Head) -> None:
    head.answer = (200, {"status": "FAILED", "message": "no such module", "metadata": {}, "driver_exit_code": 3})
    assert ray_status.ask(subject) == RayWord(status="FAILED", message="no such module", exit_code=3)
    assert head.asked == ["/api/jobs/demo-1-a1"]


def test_a_job_that_ray_does_not_know(subject: Subject, head: Head) -> None:
    assert ray_status.ask(subject) == RayWord()


def test_an_answer_counts_for_a_while(subject: Subject, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    ray_status.ask(subject)
    ray_status.ask(subject.fresh())
    assert len(head.asked) == 1
    monkeypatch.setattr(ray_status, "KEPT_S", 0.0)
    ray_status.ask(subject)
    assert len(head.asked) == 2


def test_a_head_that_does_not_know_us_cannot_be_asked(subject: Subject, head: Head) -> None:
    head.answer = (401, {})
    assert ray_status.ask(subject) is None


def test_without_a_cluster_there_is_nobody_to_ask(subject: Subject) -> None:
    assert ray_status.ask(subject) is None


def test_a_head_that_is_gone_cannot_be_asked(subject: Subject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    cluster_at(port)
    assert ray_status.ask(subject) is None


def test_a_head_that_hangs_is_not_waited_for(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_status, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cluster_at(silent.getsockname()[1])
        began = time.monotonic()
        assert ray_status.ask(subject) is None
        assert time.monotonic() - began < 5


def test_of_a_run_that_was_not_submitted_nobody_is_asked(tmp_path: Path, head: Head) -> None:
    assert ray_status.ask(Subject("x", str(tmp_path / "runs/x"))) is None
    assert head.asked == []
