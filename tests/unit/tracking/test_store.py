"""Which store is meant, and what is said of one that cannot be used."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError, TrackingError
from orchestrator.foundation.environment import TELEMETRY_OFF, quiet_telemetry
from orchestrator.tracking import sqlite
from orchestrator.tracking.store import TrackingStore, prepare, resolve_uri


@pytest.fixture(autouse=True)
def no_server_in_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def http(uri):
    return TrackingStore(uri=uri, artifact_root=None, embedded=False)


@pytest.fixture
def answering():
    """A server that answers every request with a status of the test's choice, after a pause."""
    servers = []

    def start(status, pause=0.0):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                time.sleep(pause)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_without_a_uri_it_is_sqlite_in_the_storage_folder(tmp_path):
    store = resolve_uri(None, str(tmp_path / "runs"))
    assert store.uri == f"sqlite:///{tmp_path}/runs/mlflow/mlflow.db"
    assert store.artifact_root == f"{tmp_path}/runs/mlflow/artifacts"
    assert store.embedded
    assert store.ours


def test_a_relative_storage_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, "runs").database == tmp_path / "runs/mlflow/mlflow.db"


def test_the_named_uri_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env:5000")
    assert resolve_uri("http://named:5000", str(tmp_path)).uri == "http://named:5000"
    assert resolve_uri(None, str(tmp_path)).uri == "http://env:5000"


def test_a_named_sqlite_file_is_embedded_and_not_ours(tmp_path):
    store = resolve_uri(f"sqlite:///{tmp_path}/mine.db", "runs")
    assert (store.embedded, store.ours, store.database) == (True, False, tmp_path / "mine.db")


def test_storage_in_the_cloud_needs_a_server():
    with pytest.raises(ConfigError, match=r"s3://bucket/runs.*tracking\.uri"):
        resolve_uri(None, "s3://bucket/runs")


def test_a_dead_server_is_told_at_once():
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 .*refused.*tracking=off"):
        prepare(http("http://127.0.0.1:9"), 2.0)


def test_a_stalling_server_is_told_in_time(answering):
    begun = time.monotonic()
    with pytest.raises(TrackingError, match=r"cannot be used: .*(timed out|no answer)"):
        prepare(http(answering(200, pause=3)), 0.3)
    assert time.monotonic() - begun < 2


def test_a_server_that_fails_is_told(answering):
    with pytest.raises(TrackingError, match="503"):
        prepare(http(answering(503)), 2.0)


@pytest.mark.parametrize("status", [200, 401, 404])
def test_any_other_answer_will_do(answering, status):
    prepare(http(answering(status)), 2.0)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigError, match=r"'htp'.*http, https, mssql"):
        prepare(http("htp://server"), 1.0)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
def test_a_folder_is_refused(uri):
    with pytest.raises(ConfigError, match="sqlite:///"):
        prepare(http(uri), 1.0)


def test_passwords_are_not_shown():
    store = http("http://me:secret@127.0.0.1:9")
    assert store.shown == "http://127.0.0.1:9"
    with pytest.raises(TrackingError) as error:
        prepare(store, 1.0)
    assert "secret" not in str(error.value)


def test_a_place_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(TrackingError, match=r"cannot be used: .*storage\.path"):
        prepare(resolve_uri(None, str(tmp_path / "runs")), 1.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(TrackingError, match="Permission denied"):
        prepare(resolve_uri(None, str(tmp_path / "runs")), 1.0)


def test_a_current_database_is_used_without_importing_mlflow(tmp_path, monkeypatch):
    store = resolve_uri(None, str(tmp_path))
    make_database(store.database, "abc")
    sqlite._mark(store.database, sqlite._mlflow_version())
    monkeypatch.setattr(sqlite, "_make_current", lambda *_: pytest.fail("was migrated"))
    prepare(store, 1.0)


def test_a_marker_does_not_speak_for_another_database(tmp_path):
    database = tmp_path / "mlflow.db"
    make_database(database, "abc")
    sqlite._mark(database, "3")
    assert sqlite.is_current(database, "3")
    assert not sqlite.is_current(database, "4")
    database.unlink()
    assert not sqlite.is_current(database, "3")
    make_database(database, "older")
    assert not sqlite.is_current(database, "3")


def make_database(path: Path, revision: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    connection.commit()
    connection.close()


def test_telemetry_is_off_unless_the_person_said_otherwise():
    environment = {"DO_NOT_TRACK": "0"}
    quiet_telemetry(environment)
    assert environment == {**TELEMETRY_OFF, "DO_NOT_TRACK": "0"}


def test_the_module_is_light():
    """`runs` and `doctor` read it: it must not cost MLflow's seconds."""
    import subprocess

    code = "import sys, orchestrator.tracking.store, orchestrator.tracking.sink; print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'mlflow'" not in modules
    assert "'torch'" not in modules
