"""A machine without torch plans: the cluster measures the model, with the code that is in the person's project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.sizing import ELSEWHERE, UNMEASURED

WITHOUT_TORCH = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.partition(".")[0] in ("torch", "deepspeed") else find(name, *rest)
)
"""
"""As `sitecustomize`: every Python process started with it finds neither torch nor DeepSpeed."""
OWN = """
from orchestrator.jobs.regression import Mlp

class Wide(Mlp):
    def __init__(self, outer: int = 8):
        super().__init__(inputs=10, width=4 * outer, depth=2)
"""


class Client:
    """Somebody's machine, which has the project and no torch."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        (self.project / "mine").mkdir(parents=True)
        (self.project / "mine" / "__init__.py").write_text(OWN)
        (self.project / "pyproject.toml").write_text('[tool.orchestrator]\nexports = ["mine:Wide"]\n')
        blocked = folder / "blocked"
        blocked.mkdir()
        (blocked / "sitecustomize.py").write_text(WITHOUT_TORCH)
        self._environment = {**os.environ, "PYTHONPATH": str(blocked), "XDG_CACHE_HOME": str(folder / "cache")}

    def python(self, code: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True).stdout

    def plan(self, *overrides: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "orchestrator.cli.main", "plan", "job=diabetes", "batch=64", "tracking=off"]
        command += ["model._target_=mine:Wide", "storage.shared=true", *overrides, "--json"]
        # What else the shipped job says of its own model.
        command += ["~model.inputs", "~model.width", "~model.depth", "~model.dropout"]
        done = subprocess.run(
            command, cwd=self.project, env=self._environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    made = Client(tmp_path)
    assert made.python("import importlib.util; print(importlib.util.find_spec('torch'))") == "None\n"
    return made


def test_the_cluster_measures_and_its_answer_is_remembered(client: Client, ray_address: str) -> None:
    at = f"cluster.address={ray_address}"
    code, plan = client.plan(at, "strategy=zero1", "+model.outer=16")
    assert code == 0, plan
    assert ELSEWHERE in plan["notes"]
    needed = plan["rows"][-1]["memory"]
    assert needed["activations_known"]
    assert needed["host"]["parameters"] == 4 * (10 * 64 + 64 + 64 * 64 + 64 + 64 + 1 + 1)
    (remembered,) = (client.project.parent / "cache/orchestrator/profiles").iterdir()
    # What is remembered needs no cluster that answers.
    written = remembered.stat().st_mtime_ns
    assert client.plan(at, "strategy=auto", "+model.outer=16")[1]["strategy"] == "ddp"
    assert remembered.stat().st_mtime_ns == written
    code, wrong = client.plan(at, "+model.inner=16")
    assert code == 2
    assert "model.inner" in wrong["error"]["message"]


def test_a_cluster_that_cannot_is_told_in_one_line(client: Client, ray_address: str) -> None:
    (client.project / "mine" / "__init__.py").write_text(f"import os\nos._exit(1)\n{OWN}")
    code, answer = client.plan(f"cluster.address={ray_address}", "strategy=zero1")
    assert code == 3
    assert answer["error"]["message"].startswith(
        f"The cluster at cluster.address={ray_address} cannot measure the model"
    )
    assert "\n" not in answer["error"]["message"]


def test_with_neither_torch_nor_a_cluster_one_line_says_so(client: Client) -> None:
    code, plan = client.plan("strategy=zero1")
    assert (code, UNMEASURED in plan["notes"], plan["rows"][-1]["memory"]) == (0, True, None)
    code, refused = client.plan("strategy=auto")
    assert code == 3
    assert refused["error"]["message"].startswith("Nothing can be chosen automatically")
    assert "cluster.address" in refused["error"]["hint"]
