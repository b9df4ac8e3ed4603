"""A person's own DeepSpeed settings on top of the planned ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import (
    EXPLICIT_STRATEGIES,
    Cluster,
    Job,
    JobSpec,
    Optimizer,
    OptimizerName,
    Precision,
    PrecisionName,
    Strategy,
    StrategyName,
)
from orchestrator.errors import PlanError
from orchestrator.plans.deepspeed import ds_config
from orchestrator.plans.types import Plan
from tests.unit.plans.plan_specs import plan, spec


def with_own(own: dict[str, Any], **parts: Any) -> JobSpec:
    given: dict[str, Any] = {"batch": 128, "micro_batch": 16, "cluster": Cluster(workers=2)}
    return spec(strategy=Strategy(name=StrategyName.zero2, deepspeed=own), **{**given, **parts})


def refusal(own: dict[str, Any], **parts: Any) -> tuple[str, str]:
    with pytest.raises(PlanError) as caught:
        plan(with_own(own, **parts))
    return caught.value.message.removeprefix("strategy.deepspeed sets "), caught.value.hint


@pytest.mark.parametrize(
    ("own", "message", "hint"),
    [
        ({"train_batch_size": 64}, "train_batch_size=64, but the plan has 128.", "Set batch=64 or delete the key."),
        (
            {"train_micro_batch_size_per_gpu": 4},
            "train_micro_batch_size_per_gpu=4, but the plan has 16.",
            "Set micro_batch=4 or delete the key.",
        ),
        (
            {"gradient_accumulation_steps": 1},
            "gradient_accumulation_steps=1, but the plan has 4.",
            "Set accumulation=1 or delete the key.",
        ),
        (
            {"gradient_clipping": 1.0},
            "gradient_clipping=1.0, but the plan has 0.0.",
            "Set job.clip=1.0 or delete the key.",
        ),
        (
            {"zero_optimization": {"stage": 3}},
            "zero_optimization.stage=3, but the plan has 2.",
            "Set strategy=zero3 or delete the key.",
        ),
        (
            {"zero_optimization": {"stage": 7}},
            "zero_optimization.stage=7, but the plan has 2.",
            "Set strategy=ddp or zero1 or zero2 or zero3 or delete the key.",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "zero_optimization.offload_optimizer.device=cpu, but the plan has none.",
            "Set strategy=zero2_offload or zero3_offload (to CPU memory) or zero3_nvme (to a disk), or delete the key.",
        ),
        (
            {"bf16": {"enabled": True}},
            "bf16.enabled=true, but the plan has false.",
            "Set precision=bf16 or delete the key.",
        ),
        (
            {"fp16": {"enabled": False, "initial_scale_power": 8}},
            "fp16.initial_scale_power=8, but the plan has 16.",
            "Set precision.initial_scale_power=8 or delete the key.",
        ),
        (
            {"optimizer": {"type": "SGD"}},
            "optimizer.type=SGD, but the plan has AdamW.",
            "Set optimizer=sgd or delete the key.",
        ),
        (
            {"optimizer": {"type": "Lamb"}},
            "optimizer.type=Lamb, but the plan has AdamW.",
            "Set optimizer=adamw or adam or sgd or delete the key.",
        ),
        (
            {"optimizer": {"params": {"lr": 0.5}}},
            "optimizer.params.lr=0.5, but the plan has 0.001.",
            "Set optimizer.lr=0.5 or delete the key.",
        ),
        (
            {"optimizer": {"params": {"betas": [0.9, 0.95]}}},
            "optimizer.params.betas=[0.9, 0.95], but the plan has [0.9, 0.999].",
            "Set optimizer.betas=[0.9,0.95] or delete the key.",
        ),
        (
            {"scheduler": {"type": "WarmupLR"}},
            'scheduler={"type": "WarmupLR"}, but the plan has none.',
            "Set schedule=linear, schedule=cosine or schedule=constant; delete the key.",
        ),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel.autotp_size=2, but the plan has 1.", None),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size=2, but the plan has 1.", None),
        (
            {"zero_optimisation": {}},
            "zero_optimisation, which DeepSpeed does not know.",
            "Nearest: zero_optimization, zero_force_ds_cpu_optimizer, weight_quantization.",
        ),
        (
            {"zero_optimization": {"reduce_bucket": 1}},
            "zero_optimization.reduce_bucket, which DeepSpeed does not know.",
            None,
        ),
        (
            {"zero_optimization": {"cpu_offload": True}},
            "zero_optimization.cpu_offload, which DeepSpeed does not know.",
            None,
        ),
        ({"elasticity": {}}, "elasticity, which DeepSpeed does not know.", None),
        (
            {"zero_optimization": {"reduce_bucket_size": "auto"}},
            'zero_optimization.reduce_bucket_size="auto", and nothing here fills it in.',
            "Give a value or delete the key (the plan has 50000000).",
        ),
        ({"bf16": True}, "bf16=true, but it is an object.", "Set the keys inside it."),
        ({"zero_optimization": 2}, "zero_optimization=2, which is not an object.", None),
    ],
)
def test_refusals_name_the_key_both_values_and_the_override(
    own: dict[str, Any], message: str, hint: str | None
) -> None:
    found = refusal(own)
    assert found[0] == message
    assert found[1]
    assert hint is None or found[1] == hint


def test_no_clipping_is_null_in_our_words() -> None:
    job = Job(name="demo", task="jobs.demo:Demo", steps=1, clip=1.0)
    assert refusal({"gradient_clipping": 0}, job=job)[1] == "Set job.clip=null or delete the key."


def test_equal_and_auto_values_of_owned_keys_change_nothing() -> None:
    own = {
        "train_batch_size": 128,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": "auto", "offload_optimizer": {"device": "none"}},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "optimizer": {"type": "adamw", "params": {"lr": "auto", "weight_decay": 0}},
        "scheduler": "auto",
    }
    plain, merged = plan(with_own({})), plan(with_own(own))
    assert merged.rows == plain.rows
    assert merged.notes == plain.notes


def test_own_settings_win_and_are_noted() -> None:
    own = {"zero_optimization": {"reduce_bucket_size": 7, "prefetch_bucket_size": 9}, "wall_clock_breakdown": True}
    made = plan(with_own(own))
    zero = made.rows[0].deepspeed["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["stage3_prefetch_bucket_size"], zero["stage"]) == (7, 9, 2)
    assert "prefetch_bucket_size" not in zero
    assert made.notes == (
        "strategy.deepspeed changes zero_optimization.reduce_bucket_size from 50000000 to 7",
        "strategy.deepspeed adds zero_optimization.stage3_prefetch_bucket_size=9",
        "strategy.deepspeed changes wall_clock_breakdown from false to true",
    )


def test_two_names_of_one_setting_are_refused() -> None:
    own = {"zero_optimization": {"prefetch_bucket_size": 9, "stage3_prefetch_bucket_size": 9}}
    assert "two names of the same setting" in refusal(own)[0]


# --- the file --------------------------------------------------------------------------------------------------------


def plan_with_file(folder: Path, text: str, own: dict[str, Any] | None = None) -> Plan:
    (folder / "ds.json").write_text(text, encoding="utf-8")
    strategy = Strategy(name=StrategyName.zero2, deepspeed_file="ds.json", deepspeed=own or {})
    return plan(spec(batch=128, strategy=strategy), project=folder)


def test_file_lies_below_the_settings_in_the_config(tmp_path: Path) -> None:
    text = json.dumps({"zero_optimization": {"reduce_bucket_size": 1, "allgather_bucket_size": 2}})
    made = plan_with_file(tmp_path, text, {"zero_optimization": {"reduce_bucket_size": 3}})
    zero = made.rows[0].deepspeed["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (3, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train_batch_size": 64}', "strategy.deepspeed_file ds.json sets train_batch_size=64, but the plan has 128."),
        ('{\n "a": 1,\n}', "strategy.deepspeed_file ds.json, line 3, column 1: not JSON"),
        ("[]", "strategy.deepspeed_file ds.json holds a list, not an object."),
        ('{"bf16": {}, "bf16": {}}', "strategy.deepspeed_file ds.json sets bf16 twice."),
    ],
)
def test_errors_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_with_file(tmp_path, text)
    assert caught.value.message.startswith(message)
    assert caught.value.hint


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"ds\.json cannot be read: No such file"):
        plan(spec(strategy=Strategy(deepspeed_file="ds.json")), project=tmp_path)


# --- the planned part ------------------------------------------------------------------------------------------------


def test_nothing_is_left_to_be_compiled_or_filled_in() -> None:
    for strategy in EXPLICIT_STRATEGIES:
        for optimizer in OptimizerName:
            made = plan(spec(strategy=Strategy(name=strategy, nvme_path="/nvme"), optimizer=Optimizer(name=optimizer)))
            config = made.rows[0].deepspeed
            assert '"auto"' not in json.dumps(config)
            assert "scheduler" not in config
            params = config["optimizer"]["params"]
            assert params.get("torch_adam", False) == (optimizer is not OptimizerName.sgd)
            offloads = strategy in ds_config.OFFLOADS_OPTIMIZER
            assert config.get("zero_force_ds_cpu_optimizer", True) is not offloads
            assert config.get("zero_allow_untested_optimizer", False) == (
                optimizer is OptimizerName.sgd and strategy is not StrategyName.ddp
            )


def test_precision_enables_one_section() -> None:
    config = plan(spec(precision=Precision(name=PrecisionName.bf16))).rows[0].deepspeed
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (True, False)
