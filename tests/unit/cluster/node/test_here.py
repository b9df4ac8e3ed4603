"""How a command finds the cluster of its machine: with Identity of this very process in the place of Ray's keeper."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from orchestrator.cluster.node import here, home, private
from orchestrator.cluster.node.home import Record
from orchestrator.cluster.node.processes import Identity
from orchestrator.errors import ConfigError

ACCESS = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_TOKEN_PATH": "/token", "MLFLOW_TRACKING_URI": "http://127.0.0.1:2"}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))


def put(name: str, *, lives: bool = True) -> None:
    """A cluster as `up` leaves it."""
    place = home.of(name)
    place.write(Record(name=name, role="head", address="127.0.0.1", ray="127.0.0.1:1", environment=ACCESS))
    me = Identity.of(os.getpid())
    assert me
    noted = me if lives else dataclasses.replace(me, started=1)
    private.write(place.service("ray"), json.dumps(dataclasses.asdict(noted)))


def test_nothing_is_found_where_nothing_is_up() -> None:
    env: dict[str, str] = {}
    assert here.adopt(env) is None
    put("local", lives=False)
    assert here.adopt(env) is None
    assert env == {}


def test_a_cluster_that_is_up_is_found() -> None:
    put("local")
    env: dict[str, str] = {}
    assert here.adopt(env)
    assert env == {**ACCESS, "ORCHESTRATOR_CLUSTER": "local"}


def test_what_a_person_has_set_stays() -> None:
    put("local")
    env = {"RAY_ADDRESS": "10.0.0.1:6379"}
    assert here.adopt(env) is None
    assert env == {"RAY_ADDRESS": "10.0.0.1:6379"}
    env = {"MLFLOW_TRACKING_URI": "http://elsewhere"}
    assert here.adopt(env)
    assert (env["MLFLOW_TRACKING_URI"], env["RAY_ADDRESS"]) == ("http://elsewhere", "127.0.0.1:1")


def test_of_several_one_has_to_be_named() -> None:
    put("local")
    put("training")
    with pytest.raises(ConfigError, match="part of several clusters: local, training"):
        here.adopt({})
    found = here.adopt({here.CHOICE: "training"})
    assert found
    assert found.name == "training"


def test_a_run_beside_it_hears_of_it() -> None:
    env = {here.CHOICE: "local"}
    assert "cluster=existing" in here.unused(None, env)
    assert here.unused("auto", env) == here.unused(None, {}) == ""
