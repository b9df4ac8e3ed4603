"""Whole plans, pinned. After a wanted change: pytest tests/unit/plan --update-golden, and read the diff."""

from __future__ import annotations

import difflib

import pytest

from tests.unit.plans.plan_specs import GOLDEN, golden_plans

PLANS = golden_plans()


@pytest.mark.parametrize("name", sorted(PLANS))
def test_plan_is_the_pinned_one(name: str, update_golden: bool) -> None:
    made = PLANS[name].to_json()
    file = GOLDEN / f"{name}.json"
    if update_golden:
        file.write_text(made, encoding="utf-8")
    pinned = file.read_text(encoding="utf-8")
    diff = difflib.unified_diff(
        pinned.splitlines(), made.splitlines(), f"golden/{name}.json", "planned now", lineterm=""
    )
    assert made == pinned, "\n" + "\n".join(diff)


def test_every_golden_file_is_used() -> None:
    assert {file.stem for file in GOLDEN.glob("*.json")} == set(PLANS)
