"""Trainings for real: what they compute, and how they end, resume and fail."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchestrator import paths
from orchestrator.config.targets import targets
from orchestrator.errors import RunFailedError, RunStoppedError
from orchestrator.records import events
from orchestrator.records.events import Event
from orchestrator.records.runs import Status
from orchestrator.runtime.launchers.ray.launcher import RayLauncher
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from tests.integration.training import Recorder, carry_out, curve, go_on, plain_curve, plan_of, spec_of

pytestmark = [pytest.mark.matrix(2), pytest.mark.usefixtures("forked_workers")]

DIGITS = [
    "job=digits",
    "model.width=8",
    "model.blocks=1",
    "model.dropout=0",
    "job.epochs=null",
    "job.steps=12",
    "batch=32",
    "accumulation=2",
    "cluster.workers=2",
    "optimizer.weight_decay=0.01",
    "optimizer.no_decay=[norm,bias]",
    "schedule=cosine",
    "++schedule.warmup_fraction=null",
    "++schedule.warmup_steps=3",
    "job.clip=1.0",
]

TOY = '''
import torch
from torch import nn
from orchestrator import Task


class Sentences(Task):
    """Predicts each token's double; sentences differ in length, and the loss is an average over tokens."""

    def collate(self, items):
        return nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=-1)

    def inputs(self, batch):
        return batch.clamp(min=0)

    def count(self, batch):
        return int((batch >= 0).sum())

    def loss(self, model, batch):
        logits = model(self.inputs(batch))
        wanted = torch.where(batch >= 0, batch * 2 % 16, -100)
        return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")


class Failing(Sentences):
    def loss(self, model, batch):
        if int(batch.max()) >= 0 and torch.distributed.get_rank() == 1:
            raise ValueError("token 17 is not in the vocabulary")
        return super().loss(model, batch)


def network(width: int = 8, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Embedding(16, width), nn.Dropout(dropout), nn.Linear(width, 16))


def sentences(split: str, items: int = 60):
    if split == "test":
        return None
    generator = torch.Generator().manual_seed(len(split))
    lengths = torch.randint(1, 30, (items,), generator=generator)
    return [torch.randint(0, 16, (int(n),), generator=generator) for n in lengths]
'''


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's project folder, with a package of its own; nothing may be compiled on the way."""
    folder = tmp_path / "project"
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "__init__.py").write_text(TOY)
    names = ["Sentences", "Failing", "network", "sentences"]
    exports = json.dumps([f"toy:{name}" for name in names])
    (folder / "pyproject.toml").write_text(f"[tool.orchestrator]\nexports = {exports}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def toy(*overrides: str, task: str = "Sentences") -> list[str]:
    return [
        "job=digits",
        f"job.task=toy:{task}",
        "~model",
        "+model={_target_: 'toy:network'}",
        "~data",
        "+data={_target_: 'toy:sentences'}",
        "job.epochs=null",
        "job.steps=10",
        "job.monitor.metric=loss",
        "job.monitor.mode=min",
        "batch=8",
        "accumulation=2",
        "cluster.workers=2",
        *overrides,
    ]


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_every_strategy_computes_what_a_plain_loop_computes(strategy: str, tmp_path: Path) -> None:
    plan = plan_of(*DIGITS, f"strategy={strategy}")
    losses = curve(carry_out(plan))
    expected = plain_curve(plan)
    assert losses.keys() == expected.keys()
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=2e-5)
    assert not (tmp_path / "compiled").exists(), "DeepSpeed compiled something on first use"


def test_one_plan_gives_the_same_curve_to_the_bit_again_and_under_ray(ray_address: str) -> None:
    plan = plan_of(*DIGITS, "strategy=zero2", "model.dropout=0.1")
    first, second = curve(carry_out(plan)), curve(carry_out(plan))
    third = curve(carry_out(plan, launcher=RayLauncher(ray_address)))
    assert first == second == third
    assert len(first) == 12


def test_tokens_weigh_the_same_however_they_are_spread_over_workers_and_accumulation() -> None:
    plan = plan_of(*toy("strategy=zero1"))
    losses, expected = curve(carry_out(plan)), plain_curve(plan)
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=1e-5)


def test_gradient_norms_are_recorded_alike_by_all_strategies() -> None:
    norms = [
        list(curve(carry_out(plan_of(*DIGITS, "job.steps=3", f"strategy={name}")), "train/grad_norm").values())
        for name in ("ddp", "zero2", "zero3")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert norms[2] == pytest.approx(norms[0], rel=1e-4)
    assert min(norms[0]) > 0


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_a_killed_run_resumes_to_the_bit(strategy: str) -> None:
    options = [f"strategy={strategy}", "model.dropout=0.1", "checkpoint.every={steps: 4, epochs: null}"]
    plan = plan_of(*DIGITS, *options, "resilience=off")
    undisturbed = carry_out(plan)
    launcher = TorchrunLauncher()
    killer = Recorder(
        act=lambda event: launcher.kill() if event.kind == events.CHECKPOINT and event.step == 4 else None
    )
    from orchestrator.records import runs

    record = runs.create(plan)
    from orchestrator.runtime.driver import driver

    with pytest.raises(RunFailedError):
        driver.carry_out(record, plan, spec_of(plan), killer, launcher)
    assert record.status is Status.failed
    resumed = go_on(record)
    assert resumed.status is Status.finished
    assert [attempt.number for attempt in resumed.attempts] == [1, 2]
    assert curve(resumed) == curve(undisturbed)


def test_ctrl_c_saves_and_stops_and_resume_finishes() -> None:
    plan = plan_of(*toy("job.steps=1500", "job.evaluate.epochs=null"))
    from orchestrator.records import runs

    record = runs.create(plan)
    view = Recorder(
        act=lambda event: (
            os.kill(os.getpid(), signal.SIGINT) if event.kind == events.METRICS and event.step == 5 else None
        )
    )
    from orchestrator.runtime.driver import driver

    with pytest.raises(
        RunStoppedError, match=rf"Saved at step \d+ and stopped. Go on with: orchestrator resume {record.id}"
    ):
        driver.carry_out(record, plan, spec_of(plan), view)
    assert record.status is Status.stopped
    assert record.last_checkpoint == f"step-{record.step:08d}-a1"
    assert 5 <= record.step < 1500
    stopped_at = record.step
    shown = Recorder()
    resumed = go_on(record, shown)
    assert (resumed.status, resumed.step) == (Status.finished, 1500)
    started = next(event for event in shown.events if event.kind == events.STARTED)
    assert started.step == stopped_at


def test_early_stopping_keeps_the_best_and_the_last_and_makes_the_best_the_final_model() -> None:
    # A learning rate far too high from the fourth evaluation on cannot improve the loss.
    plan = plan_of(
        *toy(
            "job.steps=100",
            "optimizer.lr=0.3",
            "job.evaluate={steps: 5, epochs: null}",
            "job.early_stopping.patience=3",
            "checkpoint.keep=1",
        )
    )
    record = carry_out(plan)
    losses = curve(record, "val/loss")
    best_step = min(losses, key=lambda step: losses[step])
    assert record.step < 100
    assert list(losses)[-1] == record.step == best_step + 15
    kept = sorted(
        path.name for path in (Path(record.root) / paths.CHECKPOINTS).iterdir() if path.name.startswith("step")
    )
    assert kept == [f"step-{best_step:08d}-a1", f"step-{record.step:08d}-a1"]
    model = json.loads((Path(record.root) / paths.MODEL / "model.json").read_text())
    assert model["step"] == best_step


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_the_final_model_is_safetensors_that_load_into_a_new_model(strategy: str, project: Path) -> None:
    plan = plan_of(*DIGITS, f"strategy={strategy}")
    record = carry_out(plan)
    folder = Path(record.root) / paths.MODEL
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    task = targets.bind(plan.spec, project=project).task()
    model = task.build_model()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    test = task.dataset("test")
    batch = task.collate([test[k] for k in range(len(test))])
    with torch.no_grad():
        loss = float(task.metrics(model.eval(), batch)["loss"]) / len(test)
    assert loss == pytest.approx(record.final_metrics["test/loss"], rel=1e-5)
    described = json.loads((folder / "model.json").read_text())
    assert described["inputs"] == [{"name": "input", "dtype": "float32", "shape": [-1, 1, 8, 8]}]
    assert described["outputs"] == [{"name": "output", "dtype": "float32", "shape": [-1, 10]}]


def test_a_bug_in_the_task_is_told_with_its_rank_and_place(project: Path) -> None:
    plan = plan_of(*toy(task="Failing"))
    with pytest.raises(RunFailedError) as caught:
        carry_out(plan)
    assert caught.value.message.startswith(
        f"ValueError: token 17 is not in the vocabulary (worker 1, {project}/toy/__init__.py:"
    )
    assert "rank-1.log" in caught.value.hint


def test_an_unknown_monitored_metric_is_refused_by_name() -> None:
    with pytest.raises(RunFailedError, match=r"job.monitor.metric=acuracy is not a metric of this task. .*accuracy"):
        carry_out(plan_of(*DIGITS, "job.monitor.metric=acuracy"))


def test_activation_checkpointing_changes_no_loss() -> None:
    plain = curve(carry_out(plan_of(*DIGITS, "job.steps=3")))
    recomputed = curve(carry_out(plan_of(*DIGITS, "job.steps=3", "job.activation_checkpointing=true")))
    assert recomputed == plain
    with pytest.raises(RunFailedError, match=r"blocks\(model\) names no modules"):
        carry_out(plan_of(*toy("job.activation_checkpointing=true")))


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero3"])
def test_bf16_trains_and_its_final_model_is_fp32(strategy: str) -> None:
    record = carry_out(plan_of(*DIGITS, "precision=bf16", f"strategy={strategy}"))
    losses = list(curve(record).values())
    assert losses[-1] < losses[0]
    weights = load_file(Path(record.root) / paths.MODEL / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_regression_learns() -> None:
    record = carry_out(plan_of("job=diabetes", "cluster.workers=1"))
    assert record.final_metrics["test/r2"] > 0.3
    assert {"test/mae", "test/rmse", "val/loss"} <= record.final_metrics.keys()


def test_progress_events_come_in_order() -> None:
    view = Recorder()
    carry_out(plan_of(*toy("job.evaluate={steps: 5, epochs: null}")), view)
    kinds = [event.kind for event in view.events if event.kind in (events.STARTED, events.EVALUATED, events.FINISHED)]
    assert kinds == [events.STARTED, events.EVALUATED, events.EVALUATED, events.FINISHED]
    assert isinstance(view.events[0], Event)
