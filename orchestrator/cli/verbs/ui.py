"""`orchestrator ui`: MLflow's page on the recorded runs."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import traceback_option
from orchestrator.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from orchestrator.tracking.store import TrackingStore

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 5.0


@click.command()
@click.option("--storage", metavar="PATH", default="runs", show_default=True, help="Folder the runs lie in.")
@click.option("--uri", metavar="URI", help="MLflow's tracking URI.  [default: $MLFLOW_TRACKING_URI, or in the storage]")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port.")
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
@click.option(
    "--allow-remote", is_flag=True, help="Listen on an address others can reach: anyone can then read and delete runs."
)
@traceback_option
def ui(storage: str, uri: str | None, host: str, port: int, no_open: bool, allow_remote: bool) -> None:
    """Open MLflow's page on the recorded runs. Ctrl-C ends it."""
    from orchestrator.tracking.store import prepare, resolve_uri

    store = resolve_uri(uri, storage)
    if store.uri.startswith(("http://", "https://")):
        prepare(store, 10.0)
        _tell(store.shown, no_open)
        return
    _check_host(host, allow_remote)
    _check_port(host, port)
    if store.embedded and not store.database.exists():
        click.echo(f"No run is recorded in {store.shown} yet; the page fills as soon as one starts.")
    prepare(store, 10.0)
    _serve(store, host, port, no_open)


def _check_host(host: str, allow_remote: bool) -> None:
    if not allow_remote and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and MLflow's page asks nobody for a password.",
            "Leave --host out and use an SSH tunnel (ssh -L 5000:127.0.0.1:5000 ...), or add --allow-remote.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int) -> None:
    """Refuse before MLflow's seconds of starting what it could only refuse after them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MachineError(
                f"Port {port} on {host} cannot be used: {error.strerror}.", f"Choose another one: --port {port + 1}."
            ) from error


def _serve(store: TrackingStore, host: str, port: int, no_open: bool) -> None:
    shown = f"[{host}]" if ":" in host else host
    reached = "127.0.0.1" if host == "0.0.0.0" else shown
    command = _command(store, host, port)
    click.echo(f"Starting MLflow on {store.shown} ...")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # a closed terminal must not leave the server behind
    with tempfile.TemporaryFile("w+") as errors:
        server = subprocess.Popen(
            command, env=_environment(), stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            if _answers(server, f"http://{reached}:{port}/health"):
                _tell(f"http://{shown}:{port}", no_open)
                click.echo("Ctrl-C ends it.")
            code = server.wait()
        except KeyboardInterrupt:
            return
        finally:
            _stop(server)
        errors.seek(0)
        click.echo("".join(errors.readlines()[-15:]), err=True, nl=False)
    raise MachineError(f"MLflow's server ended with exit code {code}.", f"Try: {' '.join(command)}")


def _command(store: TrackingStore, host: str, port: int) -> list[str]:
    """One worker process: the page of one person needs no more, and each costs half a gigabyte."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    if store.artifact_root:
        command += ["--default-artifact-root", store.artifact_root]
    return command


def _environment() -> dict[str, str]:
    from orchestrator.foundation.environment import quiet_telemetry

    environment = dict(os.environ)
    quiet_telemetry(environment)
    environment.pop("MLFLOW_TRACKING_URI", None)
    # MLflow's job runners are eight processes of 240 MB each, for features of its GenAI pages.
    environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    return environment


def _answers(server: subprocess.Popen[bytes], health: str) -> bool:
    """Wait until the server answers; False when it ends before."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(health, timeout=2):
            return True
        time.sleep(0.25)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it started: they are a process group of their own."""
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _tell(url: str, no_open: bool) -> None:
    click.echo(f"MLflow: {url}")
    if not no_open and _has_browser():
        import webbrowser

        webbrowser.open(url)


def _has_browser() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
