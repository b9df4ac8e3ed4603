"""Layers shared between workers (mesh.tensor): the same training as in one process, and a final model that is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchestrator import paths
from orchestrator.config.targets import targets
from orchestrator.errors import PlanError, RunFailedError
from orchestrator.records import events, runs
from orchestrator.records.runs import RunRecord, Status
from orchestrator.runtime.driver import driver
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from tests.integration.training import Recorder, carry_out, curve, go_on, plain_curve, plan_of, spec_of

pytestmark = [pytest.mark.matrix(3), pytest.mark.usefixtures("forked_workers")]

GPT = [
    "job=causal_lm",
    "model.width=32",
    "model.blocks=2",
    "model.context=16",
    "data.context=16",
    "data.val_fraction=0.005",
    "data.test_fraction=0.005",
    "job.epochs=null",
    "job.steps=8",
    "job.clip=0.3",
    "batch=16",
    "optimizer.lr=0.003",
    "optimizer.weight_decay=0.01",
    "optimizer.no_decay=[norm,bias]",
    "mesh.tensor=2",
]
TWO = [*GPT, "cluster.workers=2"]
FOUR = [*GPT, "cluster.workers=4", "accumulation=2"]

MODELS = """
from torch import nn
from orchestrator.jobs.causal_lm import Gpt


class Misnamed(Gpt):
    _tp_plan = {"layers.*.up": "colwise", "layers.*.down": "rowwise"}


class Lookup(Gpt):
    _tp_plan = {**Gpt._tp_plan, "tokens": "rowwise"}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "own").mkdir(parents=True)
    (folder / "own" / "__init__.py").write_text(MODELS)
    exports = json.dumps(["own:Misnamed", "own:Lookup"])
    (folder / "pyproject.toml").write_text(f"[tool.orchestrator]\nexports = {exports}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def loss_of_final_model(record: RunRecord, project: Path) -> float:
    """The test loss of the saved weights in a model that nobody has cut."""
    task = targets.bind(record.plan.spec, project=project).task()
    model = task.build_model()
    model.load_state_dict(load_file(Path(record.root) / paths.MODEL / "model.safetensors"))
    test = task.dataset("test")
    assert test is not None
    batch = task.collate([test[index] for index in range(len(test))])
    with torch.no_grad():
        return float(task.metrics(model.eval(), batch)["loss"]) / task.count(batch)


@pytest.mark.parametrize("strategy", ["ddp", "zero1"])
def test_two_workers_that_share_the_layers_compute_what_one_process_computes(strategy: str, project: Path) -> None:
    # What one of them drops, the other must: then dropout too is that of one process.
    plan = plan_of(*TWO, f"strategy={strategy}", "model.dropout=0.1")
    record = carry_out(plan)
    assert curve(record) == pytest.approx(plain_curve(plan), rel=1e-5)
    assert loss_of_final_model(record, project) == pytest.approx(record.final_metrics["test/loss"], rel=1e-5)


def test_a_llama_of_transformers_brings_along_how_it_is_cut(project: Path) -> None:
    plan = plan_of(*TWO, "model=transformer", "model.vocabulary=256", "strategy=zero1")
    record = carry_out(plan)
    assert curve(record) == pytest.approx(plain_curve(plan), rel=1e-5)
    assert loss_of_final_model(record, project) == pytest.approx(record.final_metrics["test/loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2"])
def test_two_such_pairs_share_the_data(strategy: str, project: Path) -> None:
    plan = plan_of(*FOUR, f"strategy={strategy}")
    record = carry_out(plan)
    assert curve(record) == pytest.approx(plain_curve(plan), rel=1e-5)
    assert loss_of_final_model(record, project) == pytest.approx(record.final_metrics["test/loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "zero1"])
def test_gradient_norm_and_size_are_those_of_the_whole_model(strategy: str) -> None:
    alone = ["job.steps=3", "mesh.tensor=1", "cluster.workers=1"]
    views = [Recorder(), Recorder()]
    whole = carry_out(plan_of(*GPT, *alone), views[0])
    shared = carry_out(plan_of(*TWO, "job.steps=3", f"strategy={strategy}"), views[1])
    assert curve(shared, "train/grad_norm") == pytest.approx(curve(whole, "train/grad_norm"), rel=1e-4)
    sizes = [next(e.data["parameters"] for e in view.events if e.kind == events.STARTED) for view in views]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("strategy", "base"), [("ddp", TWO), ("zero1", FOUR)])
def test_a_killed_run_resumes_to_the_bit(strategy: str, base: list[str]) -> None:
    options = ["model.dropout=0.1", "checkpoint.every={steps: 4, epochs: null}", "job.steps=6", "resilience=off"]
    plan = plan_of(*base, f"strategy={strategy}", *options)
    undisturbed = carry_out(plan)
    launcher = TorchrunLauncher()
    killer = Recorder(
        act=lambda event: launcher.kill() if event.kind == events.CHECKPOINT and event.step == 4 else None
    )
    record = runs.create(plan)
    with pytest.raises(RunFailedError):
        driver.carry_out(record, plan, spec_of(plan), killer, launcher)
    resumed = go_on(record)
    assert resumed.status is Status.finished
    assert curve(resumed) == curve(undisturbed)


def test_bf16_trains_and_its_final_model_is_whole_and_fp32(project: Path) -> None:
    record = carry_out(plan_of(*TWO, "strategy=zero1", "precision=bf16"))
    losses = list(curve(record).values())
    assert losses[-1] < losses[0]
    weights = load_file(Path(record.root) / paths.MODEL / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert loss_of_final_model(record, project) == pytest.approx(record.final_metrics["test/loss"], rel=1e-2)


def test_activation_checkpointing_changes_no_loss() -> None:
    plan = plan_of(*TWO, "job.steps=3", "job.activation_checkpointing=true")
    assert curve(carry_out(plan)) == pytest.approx(plain_curve(plan), rel=1e-5)


def test_deepspeed_settings_can_say_how_to_cut_a_model_that_does_not(project: Path) -> None:
    specs = [{"patterns": [r".*\.up\.weight"], "partition_type": "column"}]
    specs += [{"patterns": [r".*\.down\.weight"], "partition_type": "row"}]
    partition = {"use_default_specs": False, "layer_specs": specs}
    (project / "own.json").write_text(json.dumps({"tensor_parallel": {"partition_config": partition}}))
    plan = plan_of(*TWO, "job.steps=3", "model._target_=own:Misnamed", "strategy.deepspeed_file=own.json")
    record = carry_out(plan)
    assert curve(record) == pytest.approx(plain_curve(plan), rel=1e-5)
    assert loss_of_final_model(record, project) == pytest.approx(record.final_metrics["test/loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["zero3", "zero2_offload", "zero3_offload"])
def test_a_strategy_that_cannot_be_combined_is_refused(strategy: str) -> None:
    with pytest.raises(PlanError, match=f"mesh.tensor=2 does not go together with strategy={strategy}") as caught:
        plan_of(*TWO, f"strategy={strategy}")
    assert "strategy=ddp, strategy=zero1, strategy=zero2" in caught.value.hint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["job=digits", "job.epochs=null", "job.steps=2", "mesh.tensor=2"],
            "mesh.tensor=2 cannot share out SmallResNet",
        ),
        ([*TWO, "model._target_=own:Misnamed"], "mesh.tensor=2 found nothing to share in Misnamed"),
        ([*TWO, "model._target_=own:Lookup"], "mesh.tensor=2 cannot share tokens.weight"),
        ([*TWO, "model.heads=1"], "mesh.tensor does not divide model.heads"),
    ],
    ids=["no plan", "wrong names", "embedding", "half a head"],
)
def test_a_model_that_cannot_be_shared_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RunFailedError, match=message):
        carry_out(plan_of(*overrides))
