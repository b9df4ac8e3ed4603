"""Variables and secrets as a person's code finds them, and what is told where one is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.config.load import load
from orchestrator.errors import ConfigError, MachineError
from orchestrator.runtime.worker import environment


def test_variables_and_secrets_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("from-file\n")
    stored = {("hub", "me/too"): "from-keyring"}
    monkeypatch.setitem(sys.modules, "keyring", SimpleNamespace(get_password=lambda *key: stored.get(key)))
    secrets = {"A": {"file": str(tmp_path / "token")}, "B": {"env": "THERE"}, "C": {"keyring": "hub/me/too"}}
    env = {"THERE": "from-env"}
    environment.give({"environment": {"variables": {"MODE": "fast"}, "secrets": secrets}}, env)
    assert env == {"THERE": "from-env", "MODE": "fast", "A": "from-file", "B": "from-env", "C": "from-keyring"}


def test_plans_of_before_ask_for_nothing() -> None:
    env: dict[str, str] = {}
    environment.give({}, env)
    assert env == {}


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({"file": "/nowhere/token"}, "the file /nowhere/token cannot be used on .*: No such file"),
        ({"env": "NOT_SET_ANYWHERE"}, "the env NOT_SET_ANYWHERE cannot be used on .*: it is empty, or not there"),
        ({"keyring": "hub/me"}, "the keyring hub/me cannot be used on .*: the package keyring is not installed"),
    ],
)
def test_a_missing_secret_names_its_place(place: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(MachineError, match=f"environment.secrets.HF_TOKEN: {told}"):
        environment.give({"environment": {"secrets": {"HF_TOKEN": place}}}, {})


def test_the_plan_holds_the_reference_alone(tmp_path: Path) -> None:
    loaded = load(["job=digits", "+environment.secrets.HF_TOKEN={file: /run/hf}", "+environment.variables.MODE=fast"])
    assert loaded.resolved["environment"] == {
        "variables": {"MODE": "fast"},
        "secrets": {"HF_TOKEN": {"file": "/run/hf"}},
    }
    assert json.dumps(loaded.resolved["environment"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+environment.secrets.HF_TOKEN=hf_abc", "environment.secrets.HF_TOKEN does not say where the secret is"),
        ("+environment.secrets.HF_TOKEN={value: hf_abc}", "environment.secrets.HF_TOKEN does not say where"),
        ("+environment.secrets.HF_TOKEN={file: a, env: b}", "environment.secrets.HF_TOKEN does not say where"),
        ("+environment.secrets.HF_TOKEN={keyring: hf_abc}", "environment.secrets.HF_TOKEN.keyring names no place"),
        ("+environment.variables.HF_TOKEN=hf_abc", "environment.variables.HF_TOKEN would stand in the plan"),
    ],
)
def test_a_secret_by_value_is_refused_and_not_repeated(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load(["job=digits", override])
    assert "hf_abc" not in str(caught.value)


def test_one_name_in_both_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"MODE is in environment.variables and in environment.secrets"):
        load(["job=digits", "+environment.variables.MODE=a", "+environment.secrets.MODE={env: X}"])
