"""`orchestrator plan` from the command line to its output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.config.request import ConfigArgs
from orchestrator.planning import planner, sizing
from orchestrator.plans.types import Plan

Capture = pytest.CaptureFixture[str]


def test_json_is_the_plan(capsys: Capture) -> None:
    assert main(["plan", "job=digits", "--json"]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert plan.job == "digits"


def test_out_writes_the_same(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "plan.json"
    assert main(["plan", "job=digits", "--json", "--out", str(file)]) == 0
    assert file.read_text() == capsys.readouterr().out


def test_out_that_cannot_be_written(capsys: Capture) -> None:
    assert main(["plan", "job=digits", "--out", "/proc/plan.json"]) == 2
    assert "/proc/plan.json" in capsys.readouterr().err


def test_for_people(capsys: Capture) -> None:
    assert main(["plan", "job=digits"]) == 0
    assert "digits" in capsys.readouterr().out


def test_cfg_shows_the_config_and_plans_nothing(capsys: Capture) -> None:
    assert main(["plan", "job=digits", "--cfg", "job"]) == 0
    assert "task: orchestrator.jobs.image_classification:ImageClassification" in capsys.readouterr().out


def test_a_wrong_override(capsys: Capture) -> None:
    assert main(["plan", "optimzer.lr=1", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "ConfigError"
    assert "optimzer" in error["message"]


def test_targets_are_checked(capsys: Capture) -> None:
    assert main(["plan", "job=digits", "+model.nonsense=1"]) == 2
    assert "model.nonsense" in capsys.readouterr().err


def test_targets_need_not_be_checked() -> None:
    assert planner.make_plan(ConfigArgs(overrides=("job=digits",)), check_code=False).job == "digits"


def test_without_torch_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert sizing.UNMEASURED in planner.make_plan(ConfigArgs(overrides=("job=digits",))).notes


def test_every_node_sees_a_url(tmp_path: Path) -> None:
    assert planner._shared("s3://bucket/runs")
    assert not planner._shared(str(tmp_path))
