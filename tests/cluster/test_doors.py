"""Every door of a cluster, knocked at by somebody without the token: each is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Hosts
from tests.cluster.started import PYTHON, Person, knock, open_ports, spec, started

HERE = Path(__file__).parent
REFUSED_HTTP = (401, 403)
PUBLIC_DASHBOARD = ("/", "/api/authentication_mode", "/api/healthz", "/api/gcs_healthz", "/api/local_raylet_healthz")
"""What a browser needs to ask for the token, and what a load balancer asks. They tell nothing and do nothing."""
PUBLIC_MLFLOW = ("/health", "/ajax-api/3.0/mlflow/server-info", "/api/3.0/mlflow/server-info", "/static-files/1")
"""Whether it lives, which version it is, and the files of its page."""
WRONG = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
NONE = {"RAY_AUTH_MODE": "disabled"}
ASK_ALL = """
import http.client, json, sys
host, port, routes = sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)
connection = http.client.HTTPConnection(host, port, timeout=20)
for method, path in routes:
    connection.request(method, path, body="{}" if method != "GET" else None, headers={"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    print(json.dumps([method, path, answer.status]))
"""


@pytest.fixture(scope="module")
def hosts(allowed: None) -> Iterator[Hosts]:
    with Hosts(1) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def person(hosts: Hosts) -> Iterator[Person]:
    with started(hosts, spec(hosts, "doors", hosts.all[:1], listen="network")) as person:
        yield person


@pytest.fixture(scope="module")
def head(hosts: Hosts, person: Person) -> Host:
    return hosts.all[0]


def test_every_port_that_is_open_refuses(hosts: Hosts, head: Host) -> None:
    """Whatever Ray listens on now or in a later version: a port that we cannot make refuse fails this test."""
    ports = open_ports(head)
    answers = {
        **knock(hosts.laptop, head.address, ports["network"]),
        **knock(head, "127.0.0.1", sorted(set(ports["loopback"]) - set(ports["network"]))),
    }
    assert {"6379", "10001", "8265", "5000"} <= answers.keys()
    for port, answer in answers.items():
        if isinstance(answer, int):
            assert answer in REFUSED_HTTP, f"port {port}: {answers}"
        else:
            assert set(answer.values()) == {"UNAUTHENTICATED"}, f"port {port}: {answers}"


@pytest.mark.parametrize("secret", [NONE, WRONG], ids=["no token", "a wrong token"])
@pytest.mark.parametrize(("door", "port"), [("ledger", 6379), ("client", 10001)])
def test_rays_own_clients_are_refused(hosts: Hosts, head: Host, door: str, port: int, secret: dict[str, str]) -> None:
    command = [*PYTHON, HERE / "strangers.py", door, f"{head.address}:{port}"]
    told = hosts.laptop.run(command, env=secret, timeout=120).stdout.splitlines()[-1]
    assert told.startswith("refused: ")


@pytest.mark.parametrize(
    "path", ["/nodes?view=summary", "/api/v0/logs", "/api/version", "/api/actors/kill", "/metrics"]
)
def test_dashboard_refuses(head: Host, path: str) -> None:
    assert status_of(head, "GET", f"http://127.0.0.1:8265{path}") in REFUSED_HTTP


def test_jobs_are_not_taken(head: Host) -> None:
    address = "http://127.0.0.1:8265/api/jobs/"
    assert status_of(head, "GET", address) in REFUSED_HTTP
    assert status_of(head, "POST", address, '{"entrypoint": "touch /tmp/was-here"}') in REFUSED_HTTP
    assert not head.file("/tmp/was-here").exists()


def status_of(host: Host, method: str, url: str, body: str = "") -> int:
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, url]
    return int(host.run([*words, *(["-d", body] if body else [])]).stdout)


def test_every_route_of_mlflow_refuses(hosts: Hosts, head: Host) -> None:
    """Taken from its routers, so that a route that a later version adds is asked as well."""
    settings = head.file("/home/host/.orchestrator/clusters/doors/mlflow-server.ini")
    laptop = hosts.laptop
    laptop.file("/home/host/mlflow.ini").write_text(settings.read_text().replace("clusters/doors/", ""))
    laptop.file("/home/host/.orchestrator").mkdir(exist_ok=True)
    env = {
        "MLFLOW_AUTH_CONFIG_PATH": "/home/host/mlflow.ini",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    told = laptop.run([*PYTHON, HERE / "mlflow_routes.py"], env=env, check=True, timeout=200).stdout
    routes = json.loads(told.splitlines()[-1])
    assert len(routes) > 400
    asked = laptop.run(
        [*PYTHON, "-c", ASK_ALL, head.address, "5000"], input=json.dumps(routes), timeout=250, check=True
    )
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert len(answers) == len(routes)
    let_in = [answer for answer in answers if answer[2] not in REFUSED_HTTP and answer[1] not in PUBLIC_MLFLOW]
    assert not let_in


def test_mlflow_takes_no_other_host_name(hosts: Hosts, head: Host, person: Person) -> None:
    """A page elsewhere cannot lead a browser here by a name of its own."""
    login = person.login()
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-u", f"{login['username']}:{login['password']}"]
    url = f"{login['url']}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert hosts.laptop.run([*words, url]).stdout == "200"
    assert hosts.laptop.run([*words, "-H", "Host: elsewhere.example", url]).stdout == "403"
