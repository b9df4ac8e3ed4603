"""`orchestrator ui`: what is refused before MLflow is started. That it serves is tested with MLflow itself."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from orchestrator.cli.verbs.ui import ui
from orchestrator.errors import ConfigError, MachineError, TrackingError


def call(*arguments):
    return CliRunner().invoke(ui, [str(argument) for argument in arguments], catch_exceptions=False)


def test_an_occupied_port_is_told_at_once(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MachineError, match=rf"Port {port} .*in use.*--port {port + 1}"):
            call("--storage", tmp_path, "--port", port, "--no-open")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_an_address_that_others_reach_is_refused(tmp_path, host):
    with pytest.raises(ConfigError, match="--allow-remote"):
        call("--storage", tmp_path, "--host", host)


def test_a_server_that_is_not_there_is_told(monkeypatch):
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        call("--uri", "http://127.0.0.1:9", "--no-open")
