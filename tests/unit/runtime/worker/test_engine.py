"""The parts of engine and loop that work without DeepSpeed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from orchestrator import paths
from orchestrator.config.schema import MonitorMode, PrecisionName
from orchestrator.errors import StorageError
from orchestrator.foundation.storage import LocalStore
from orchestrator.runtime.worker import context
from orchestrator.runtime.worker.context import Launch, StoreContext
from orchestrator.runtime.worker.engine import _cross_precision, parameter_groups
from orchestrator.runtime.worker.hardware import seed_step
from orchestrator.runtime.worker.loop import gain_over


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_all_parameters_are_in_one_group_unless_some_are_exempt() -> None:
    model = network()
    (group,) = parameter_groups(model, no_decay=[], weight_decay=0.1)
    assert group["weight_decay"] == 0.1
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_exempt_parameters_are_named_by_parts_of_their_names() -> None:
    model = network()
    decayed, exempt = parameter_groups(model, no_decay=["bias", "1."], weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["0.weight", "2.weight"]
    assert [names[id(p)] for p in exempt["params"]] == ["0.bias", "1.weight", "1.bias", "2.bias"]
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)


def test_no_group_is_empty() -> None:
    (group,) = parameter_groups(network(), no_decay=["weight", "bias"], weight_decay=0.1)
    assert group["weight_decay"] == 0.0


def test_frozen_parameters_are_in_no_group() -> None:
    model = network()
    model[0].requires_grad_(False)  # type: ignore[index]
    groups = parameter_groups(model, no_decay=["bias"], weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == 4


class Seen(nn.Module):
    """Keeps what it is called with."""

    def forward(self, numbers: torch.Tensor, mask: torch.Tensor, *, extra: dict[str, torch.Tensor]) -> object:
        self.types = (numbers.dtype, mask.dtype, extra["weights"].dtype)
        return {"logits": numbers * 2, "index": mask}, [extra["weights"]]


@pytest.mark.parametrize(
    ("precision", "dtype"), [(PrecisionName.bf16, torch.bfloat16), (PrecisionName.fp16, torch.float16)]
)
def test_a_narrow_model_sees_its_own_format_and_its_caller_fp32(precision: PrecisionName, dtype: torch.dtype) -> None:
    model = Seen()
    _cross_precision(model, precision)
    output, (weights,) = model(torch.ones(2), torch.ones(2, dtype=torch.long), extra={"weights": torch.ones(2)})
    assert model.types == (dtype, torch.long, dtype), "whole numbers stay what they are"
    assert output["logits"].dtype == weights.dtype == torch.float32
    assert output["index"].dtype == torch.long


def test_gradients_cross_the_border() -> None:
    model = nn.Linear(2, 1).to(torch.bfloat16)
    _cross_precision(model, PrecisionName.bf16)
    inputs = torch.ones(3, 2, requires_grad=True)
    model(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.dtype == torch.float32
    assert model.weight.grad is not None


def test_an_fp32_model_is_left_alone() -> None:
    model = Seen()
    _cross_precision(model, PrecisionName.fp32)
    double = torch.ones(2, dtype=torch.float64)
    output, _ = model(double, double, extra={"weights": double})
    assert output["logits"].dtype == torch.float64


@pytest.mark.parametrize(
    ("best", "value", "mode", "gain"),
    [
        (None, 0.5, MonitorMode.max, math.inf),
        (0.5, 0.75, MonitorMode.max, 0.25),
        (0.5, 0.75, MonitorMode.min, -0.25),
        (0.5, 0.5, MonitorMode.min, 0.0),
        (None, math.nan, MonitorMode.max, -math.inf),
        (None, math.inf, MonitorMode.max, -math.inf),
        (None, -math.inf, MonitorMode.min, -math.inf),
        (0.5, math.nan, MonitorMode.min, -math.inf),
    ],
)
def test_how_much_better_a_value_is(best: float | None, value: float, mode: MonitorMode, gain: float) -> None:
    assert gain_over(best, value, mode) == gain


def test_random_numbers_depend_on_seed_step_and_rank_alone() -> None:
    def drawn(seed: int, step: int, rank: int) -> float:
        seed_step(seed, step, rank)
        return torch.rand(()).item()

    keys = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 2) for rank in (0, 1)]
    numbers = [drawn(*key) for key in keys]
    assert len(set(numbers)) == len(keys)
    assert [drawn(*key) for key in reversed(keys)] == numbers[::-1]


class TestShouldStop:
    @pytest.fixture
    def worker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreContext:
        monkeypatch.setattr(context, "LOOK_INTERVAL_S", 0.0)
        launch = Launch(run_id="r", attempt=1, root=str(tmp_path), project="", world_size=1, plan={})
        return StoreContext(launch, rank=0, world_size=1, local_rank=0, node_rank=0)

    def test_a_stop_file_is_seen_and_not_forgotten(self, worker: StoreContext, tmp_path: Path) -> None:
        assert not worker.should_stop()
        (tmp_path / paths.STOP).write_text("please\n")
        assert worker.should_stop()
        (tmp_path / paths.STOP).unlink()
        assert worker.should_stop()

    def test_storage_that_does_not_answer_has_not_asked(
        self, worker: StoreContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(*_: object) -> bool:
            raise StorageError("Cannot read: no route.")

        monkeypatch.setattr(LocalStore, "exists", unreachable)
        assert not worker.should_stop()

    def test_an_object_store_is_asked_less_often(self) -> None:
        def interval(root: str) -> float:
            launch = Launch(run_id="r", attempt=1, root=root, project="", world_size=1, plan={})
            return StoreContext(launch, rank=0, world_size=1, local_rank=0, node_rank=0)._look_interval

        assert interval("memory://runs/r") > interval("/runs/r")


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_batch_norm_in_half_precision_keeps_its_statistics_in_fp32(options: dict[str, object]) -> None:
    exact, halved = nn.BatchNorm1d(5, **options), nn.BatchNorm1d(5, **options)
    model = nn.Sequential(halved)
    _cross_precision(model, PrecisionName.bf16)
    for parameter in halved.parameters():
        parameter.data = parameter.data.bfloat16()
    for training in (True, True, False):
        exact.train(training)
        model.train(training)
        values = torch.randn(16, 5).bfloat16()
        found = model(values)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact(values.float()), rtol=0.02, atol=0.02)
    for name, value in exact.state_dict().items():
        assert halved.state_dict()[name].dtype == (torch.bfloat16 if name in ("weight", "bias") else value.dtype)
        torch.testing.assert_close(halved.state_dict()[name].float(), value.float())
