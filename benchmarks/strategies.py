"""`strategy=auto` against every explicit strategy, on three models that fit: steps per second, in turns."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import Measurement, Result, run
from benchmarks.training import ORCHESTRATOR, is_torchrun_worker
from orchestrator.config.schema import StrategyName
from orchestrator.plans.memory.auto import COST

STEPS, WARM = 120, 20
TOLERANCE = 1.05
"""How much slower a strategy may be that is stated to be faster: what one machine measures again."""
EXPLICIT = ("ddp", "zero1", "zero2", "zero3")
COMMON = [
    *("cluster=torchrun", "cluster.workers=2", "job.epochs=null", f"job.steps={STEPS}", "checkpoint=final_only"),
    *("job.evaluate.epochs=null", "tracking=off", "tracking.system_metrics=false"),
]
MODELS = {
    "digits ResNet": ["job=digits", "model.width=32", "batch=64"],
    "MLP 4x512": ["job=diabetes", "model.width=512", "model.depth=4", "batch=64"],
    "small GPT": ["job=causal_lm", "batch=8"],
}


def steps_per_s(overrides: list[str], strategy: str, folder: Path) -> Measurement:
    """One short training."""
    run([ORCHESTRATOR, "train", *COMMON, *overrides, f"strategy={strategy}"], folder, is_torchrun_worker)
    (events,) = folder.glob("runs/*/events/rank-0.jsonl")
    records = [json.loads(line) for line in events.read_text().splitlines()]
    marks = {record["step"]: record["time"] for record in records if "train/loss" in record.get("metrics", {})}
    return {"steps_per_s": (STEPS - WARM) / (marks[STEPS] - marks[WARM])}


def in_turns(number: int) -> tuple[str, ...]:
    """All sides, forwards and backwards in turn: a machine may be slower for a while after what ran before."""
    names = ("auto", *EXPLICIT)
    return names if number % 2 == 0 else names[::-1]


def costs(rounds: list[dict[str, Measurement]]) -> dict[str, float]:
    """Time of a step under each strategy relative to ddp, as in plans/memory/auto.py: the median over all rounds."""
    return {
        name: statistics.median(turn["ddp"]["steps_per_s"] / turn[name]["steps_per_s"] for turn in rounds)
        for name in EXPLICIT
    }


def judged(measured: Mapping[str, float]) -> list[str]:
    """Measured costs beside the stated ones, and the pairs whose order is not the stated one."""
    stated = {name: COST[StrategyName(name)] for name in measured}
    lines = [
        "cost of a step, measured (stated): "
        + ", ".join(f"{name} {measured[name]:.2f} ({stated[name]:g})" for name in measured)
    ]
    for cheaper, dearer in itertools.permutations(measured, 2):
        if stated[cheaper] < stated[dearer] and measured[cheaper] > TOLERANCE * measured[dearer]:
            lines.append(f"the cost model is wrong here: {dearer} is faster than {cheaper}")
    return lines


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """A row for each model and explicit strategy; auto may be at most 5 % slower than the best of them."""
    results = []
    numbers = itertools.count()
    for model, overrides in MODELS.items():
        rounds = []
        for number in range(pairs):
            turn = {name: steps_per_s(overrides, name, folder / str(next(numbers))) for name in in_turns(number)}
            rounds.append(turn)
            print(f"  {model}: " + "  ".join(f"{name} {turn[name]['steps_per_s']:.1f}" for name in turn), flush=True)
        print(*(f"  {model}: {line}" for line in judged(costs(rounds))), sep="\n", flush=True)
        for name in EXPLICIT:
            paired = [(turn["auto"], turn[name]) for turn in rounds]
            what = f"{model}, 2 workers: steps/s of auto against {name}"
            results.append(
                Result(name=f"{model}-{name}", what=what, figure="steps_per_s", target=">= 0.95", pairs=paired)
            )
    return results
