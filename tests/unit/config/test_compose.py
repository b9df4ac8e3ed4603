"""Composition: every shipped option, the override grammar, and whose files win."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator import paths
from orchestrator.config.explain import keys
from orchestrator.config.load import load, show, spec_from_dict
from orchestrator.config.schema import LauncherName, OptimizerName, StrategyName
from orchestrator.errors import ConfigError

CONF = paths.shipped_conf()
OPTIONS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir()
}


@pytest.mark.parametrize("number", range(max(map(len, OPTIONS.values()))))
def test_every_option_composes(number: int) -> None:
    """One of each group at a time, since a composition takes long: all options in as many as the largest group has."""
    choices = [f"{group}={options[number]}" for group, options in OPTIONS.items() if number < len(options)]
    loaded = load(choices)
    assert loaded.resolved == json.loads(json.dumps(loaded.resolved))


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_files_have_a_purpose_and_name_only_settings(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
    assert comments, "a comment line says what the file is for"
    content = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"}
    prefix = "" if "@package _global_" in text or file.parent == CONF else file.parent.name + "."
    assert [key for key in flat(content, prefix) if not keys.exists(key)] == []


@pytest.mark.parametrize("file", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_experiments_are_deltas(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("# @package _global_\n")


def flat(node: object, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return []
    return [f"{prefix}{key}" for key in node] + [k for key in node for k in flat(node[key], f"{prefix}{key}.")]


def test_a_resolved_config_makes_the_same_spec() -> None:
    loaded = load(["experiment=demo", "+tracking.tags.note='costs \\${HOME}'", "optimizer.betas=[0.8,0.9]"])
    assert loaded.resolved["tracking"]["tags"]["note"] == "costs ${HOME}"
    assert spec_from_dict(json.loads(json.dumps(loaded.resolved))) == loaded.spec
    assert loaded.spec.optimizer.name is OptimizerName.adamw


def test_demo() -> None:
    spec = load(["experiment=demo"]).spec
    assert (spec.batch, spec.cluster.workers, spec.strategy.name) == (64, 2, StrategyName.zero2)
    assert (spec.job.epochs, spec.job.clip, spec.job.monitor.metric) == (12, 1.0, "accuracy")


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["optimizer.betas=[0.8,0.9]"], "optimizer.betas", [0.8, 0.9]),
        (["job.early_stopping.patience=3"], "job.early_stopping.patience", 3),
        (["optimizer={lr: 0.5}"], "optimizer.lr", 0.5),
        (["optimizer=sgd", "optimizer.lr=0.5"], "optimizer.lr", 0.5),
        (["++optimizer.lr=0.5"], "optimizer.lr", 0.5),
        (["+model.depth=3"], "model.depth", 3),
        (["+strategy.deepspeed.fp16={enabled: true}"], "strategy.deepspeed.fp16.enabled", True),
        (["~model.dropout"], "model.dropout", None),
        (["~schedule"], "schedule.name", "constant"),
        (["batch=${job.log_every}"], "batch", 1),
        (["job.name=${hydra:runtime.choices.model}"], "job.name", "small_resnet"),
        (["cluster.workers=2..8"], "cluster.workers", "2..8"),
        (["experiment=diabetes_ddp"], "model._target_", "orchestrator.jobs.regression:Mlp"),
        (["+experiment=diabetes_ddp"], "data._target_", "orchestrator.jobs.regression:diabetes"),
        (["experiment=diabetes_ddp", "optimizer=adam", "batch=8"], "optimizer.name", "adam"),
        (["experiment=diabetes_ddp", "job=digits"], "job.name", "digits"),
        (
            ["job=diabetes", "model=small_resnet"],
            "model._target_",
            "orchestrator.jobs.image_classification:SmallResNet",
        ),
        (["job=diabetes"], "batch", 32),
        (["experiment=demo", "strategy=zero3", "cluster.workers=4"], "strategy.name", "zero3"),
        (["hydra.verbose=true"], "batch", 64),
    ],
    ids=str,
)
def test_override_grammar(overrides: list[str], key: str, value: object) -> None:
    node: object = load(overrides).resolved
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    assert node == value


def test_a_project_adds_options(project) -> None:
    project.write("conf/strategy/mine.yaml", "name: zero3\nprefetch_bucket_size: 7\n")
    project.write("conf/optimizer/adamw.yaml", "lr: 0.25\n")
    project.write("conf/job/own.yaml", "name: own\ntask: orchestrator.jobs.regression:Regression\n")
    spec = load(["strategy=mine", "job=own"]).spec
    assert (spec.strategy.name, spec.strategy.prefetch_bucket_size) == (StrategyName.zero3, 7)
    assert (spec.optimizer.lr, spec.optimizer.weight_decay) == (0.25, 0.0), "its own adamw replaces ours"
    assert spec.job.name == "own"


def test_config_dir_comes_before_the_project(project) -> None:
    project.write("conf/strategy/mine.yaml", "prefetch_bucket_size: 7\n")
    project.write("elsewhere/strategy/mine.yaml", "prefetch_bucket_size: 8\n")
    assert load(["strategy=mine"], config_dir="elsewhere").spec.strategy.prefetch_bucket_size == 8
    assert load(["strategy=mine"]).spec.strategy.prefetch_bucket_size == 7


def test_a_projects_config_replaces_ours_and_is_still_checked(project) -> None:
    project.write(
        "conf/config.yaml",
        """
        defaults:
          - cluster: torchrun
          - model: mlp
          - data: diabetes
          - _self_
        job: {name: bare, task: "orchestrator.jobs.regression:Regression"}
        """,
    )
    spec = load(["optimizer.betas=[0.8,0.9]", "job.early_stopping.patience=2"]).spec
    assert (spec.job.name, spec.cluster.launcher, spec.batch) == ("bare", LauncherName.torchrun, None)
    with pytest.raises(ConfigError, match=r"optimizer\.lr=x is not a number"):
        load(["optimizer.lr=x"])


def test_config_name(project) -> None:
    project.write("conf/other.yaml", "defaults: [config, _self_]\nbatch: 8\n")
    assert load([], config_name="other").spec.batch == 8


def test_loading_leaves_hydra_as_it_was(project) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        load([])
        show([], cfg="job")
        assert compose("config").batch == 64


def test_show_cfg() -> None:
    assert show(["batch=7"], cfg="job", package="optimizer").startswith("# @package optimizer\nname: adamw\n")
    text = show(["batch=${job.log_every}"], cfg="job")
    assert "batch: ${job.log_every}" in text
    assert "hydra:" not in text
    assert "batch: 1\n" in show(["batch=${job.log_every}"], cfg="job", resolve=True)
    assert show([], cfg="hydra").startswith("hydra:")


@pytest.mark.parametrize(
    ("info", "part"),
    [
        ("defaults", "| optimizer/adamw"),
        ("defaults-tree", "optimizer: adamw"),
        ("searchpath", "| main"),
        ("config", "Config search path"),
    ],
)
def test_show_info(info: str, part: str) -> None:
    assert part in show(["+experiment=demo"], info=info)


def test_config_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator.config.load import load; load(['experiment=demo']);"
        "print([name for name in ('torch', 'ray', 'deepspeed', 'mlflow', 'jobs') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
