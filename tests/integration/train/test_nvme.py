"""zero3_nvme for real: optimizer states on a disk. The first time it compiles DeepSpeed's op, which takes minutes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from orchestrator.cluster.doctor import async_io
from orchestrator.config.schema import Job, PrecisionName, Strategy, StrategyName
from orchestrator.errors import RunFailedError
from orchestrator.plans.memory import estimate
from orchestrator.profile.model import profile_model
from orchestrator.records import events, runs
from orchestrator.records.runs import Status
from orchestrator.runtime.driver import driver
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from orchestrator.runtime.worker.engine import prepare
from tests.integration.plan.memory_probe import task_of
from tests.integration.plan.test_memory_held import assert_held, measured, plan, spec
from tests.integration.training import Recorder, carry_out, curve, go_on, plan_of, spec_of

pytestmark = [
    pytest.mark.skipif(
        "ORCHESTRATOR_TEST_NVME" not in os.environ, reason="compiles for minutes: ORCHESTRATOR_TEST_NVME=1"
    ),
    pytest.mark.skipif(bool(async_io.lacking()), reason=f"missing here: {', '.join(async_io.lacking())}"),
    pytest.mark.timeout(1200),
]
GPT = [
    *("job=causal_lm", "model.width=256", "model.blocks=2", "data.val_fraction=0.005", "data.test_fraction=0.005"),
    *("job.epochs=null", "job.steps=6", "batch=16", "job.clip=0.3", "cluster.workers=2", "cluster.start_timeout_s=900"),
    "optimizer.no_decay=[norm,bias]",
]


@pytest.mark.parametrize("precision", [PrecisionName.fp32, PrecisionName.bf16])
def test_every_rank_holds_what_is_planned(tmp_path: Path, precision: PrecisionName) -> None:
    heavy = dataclasses.replace(
        spec(StrategyName.zero3_nvme, precision),
        job=Job(name="heavy", task="tests.integration.plan.memory_probe:Sums", steps=2),
        strategy=Strategy(name=StrategyName.zero3_nvme, nvme_path=str(tmp_path / "disk")),
    )
    made = plan(heavy)
    row = made.preferred
    held = measured(tmp_path, "measure", {"heavy": made}, timeout_s=900)
    profile = profile_model(task_of(made), heavy, [row.micro_batch], prepare)
    assert_held(estimate.per_rank(profile, heavy, row, on_gpu=False), [rank["heavy"] for rank in held])


@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_a_killed_run_resumes_to_the_bit_of_one_that_was_offloaded_to_memory(tmp_path: Path, asynchronous: str) -> None:
    disk = tmp_path / "disk"
    common = [*GPT, "checkpoint.every={steps: 4, epochs: null}", f"checkpoint.asynchronous={asynchronous}"]
    at = f"storage.path={tmp_path / 'runs'}"
    in_memory = carry_out(plan_of(*common, at, "strategy=zero3_offload", "resilience=off"))
    swapped = plan_of(*common, at, "strategy=zero3_nvme", f"strategy.nvme_path={disk}", "resilience=off")
    launcher = TorchrunLauncher()
    killer = Recorder(
        act=lambda event: launcher.kill() if event.kind == events.CHECKPOINT and event.step == 4 else None
    )
    record = runs.create(swapped)
    with pytest.raises(RunFailedError):
        driver.carry_out(record, swapped, spec_of(swapped), killer, launcher)
    resumed = go_on(record)
    assert resumed.status is Status.finished
    assert curve(resumed) == curve(in_memory)
    assert resumed.final_metrics["test/loss"] == in_memory.final_metrics["test/loss"]
    assert not list(disk.iterdir()), "its files are gone with it"
