"""The pinned DeepSpeed accepts every config we plan, and knows exactly the keys that we think it knows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plans.deepspeed import known_keys

GOLDEN = Path(__file__).parents[2] / "unit" / "plans" / "golden"
READ_BY_INITIALIZE = {"sequence_parallel_size", "data_parallel_size"}
"""Keys that deepspeed.initialize reads before it makes a DeepSpeedConfig."""


def golden_rows() -> list[Any]:
    plans = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(GOLDEN.glob("*.json"))}
    return [pytest.param(row, id=f"{name}-{row['world_size']}") for name, plan in plans.items() for row in plan["rows"]]


class World:
    """What DeepSpeedConfig asks of a model-parallel unit: here, the data-parallel size."""

    def __init__(self, data: int) -> None:
        self.data = data

    def get_data_parallel_world_size(self) -> int:
        return self.data


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give DeepSpeed a rank without a process group, so that it believes the world size it is told."""
    from deepspeed import comm

    monkeypatch.setattr(comm, "get_rank", lambda: 0)


@pytest.mark.parametrize("row", golden_rows())
def test_deepspeed_accepts_and_keeps_the_planned_config(row: dict[str, Any]) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    config = DeepSpeedConfig(copy.deepcopy(row["deepspeed"]), mpu=World(row["mesh"]["data"]))
    assert config.world_size == row["mesh"]["data"]
    assert config.train_batch_size == row["batch"]
    assert config.train_micro_batch_size_per_gpu == row["micro_batch"]
    assert config.gradient_accumulation_steps == row["accumulation"]
    zero = row["deepspeed"]["zero_optimization"]
    assert config.zero_optimization_stage == zero["stage"]
    assert bool(config.zero_config.offload_optimizer) is ("offload_optimizer" in zero)
    assert config.zero_config.reduce_bucket_size == zero.get("reduce_bucket_size", 500_000_000)
    assert config.bfloat16_config.enabled is row["deepspeed"]["bf16"]["enabled"]
    assert config.float16_config.enabled is row["deepspeed"]["fp16"]["enabled"]
    assert config.scheduler_name is None
    assert config.steps_per_print is None
    assert config.timers_config.enabled is False
    assert config.checkpoint_tag_validation_fail


def test_deepspeed_refuses_another_world_size() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    config = json.loads((GOLDEN / "zero1.json").read_text(encoding="utf-8"))["rows"][0]["deepspeed"]
    with pytest.raises(AssertionError, match="train_batch_size is not equal"):
        DeepSpeedConfig(config, mpu=World(3))


class Recorder(dict[str, Any]):
    """A config that remembers which keys it was asked for."""

    asked: set[str]

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked = set()

    def __copy__(self) -> Recorder:
        return self

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self


def test_top_level_keys_are_those_of_the_pinned_version() -> None:
    from deepspeed.runtime import config as pinned

    recorder = Recorder({"train_batch_size": 1})
    pinned.DeepSpeedConfig(recorder)
    refused = set(pinned._REMOVED_TOP_LEVEL_CONFIG_KEYS)
    old_names = {"bfloat16"}
    assert set(known_keys.TOP_LEVEL) == (recorder.asked | READ_BY_INITIALIZE) - refused - old_names


def test_zero_keys_are_those_of_the_pinned_version() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = {
        name: field
        for name, field in DeepSpeedZeroConfig.model_fields.items()
        if not (field.json_schema_extra or {}).get("deprecated")
    }
    assert set(known_keys.ZERO) == {field.alias or name for name, field in fields.items()}
    assert {name: field.alias for name, field in fields.items() if field.alias} == known_keys.ZERO_ALIASES
