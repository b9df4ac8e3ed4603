"""The shipped cluster.yaml is one that Ray's own launcher takes as it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from tests.cluster.hosts import HOME, ROOT, Hosts
from tests.cluster.started import ENVIRONMENT, PYTHON

HERE = Path(__file__).parent
PATH_LINE = f"export PATH={ENVIRONMENT}/bin:$PATH\n"


@pytest.mark.usefixtures("allowed")
def test_ray_up_starts_a_cluster_that_asks_for_the_token() -> None:
    with Hosts(2) as hosts:
        head, worker = hosts.all
        for host in hosts.all:
            for name in (".bashrc", ".bash_profile"):  # Ray is installed there
                host.file(HOME / name).write_text(PATH_LINE)
        told = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        told["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
        told |= {"auth": {"ssh_user": "root", "ssh_private_key": str(hosts.key)}, "min_workers": 1, "max_workers": 1}
        hosts.laptop.file(HOME / "cluster.yaml").write_text(yaml.safe_dump(told))
        hosts.laptop.run(["ray", "get-auth-token", "--generate"], check=True)
        hosts.laptop.run(["ray", "up", "--yes", "cluster.yaml"], check=True, timeout=150)
        end = time.monotonic() + 90
        while not any("raylet/raylet" in line for line in worker.processes().values()):
            assert time.monotonic() < end, "the worker was not started"
            time.sleep(1)
        ask = [*PYTHON, HERE / "strangers.py", "ledger", f"{head.address}:6379"]
        for token, answer in (({"RAY_AUTH_MODE": "token"}, "got in: "), ({"RAY_AUTH_MODE": "disabled"}, "refused: ")):
            assert hosts.laptop.run(ask, env=token, timeout=60).stdout.startswith(answer)
