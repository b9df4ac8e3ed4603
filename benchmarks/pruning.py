"""Epochs that ASHA trains until it has the loss that random search has after training every trial in full."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from benchmarks.harness import Measurement, Result, run
from benchmarks.training import ORCHESTRATOR, is_ray_worker
from orchestrator.sweep import record
from orchestrator.sweep.ledger import ENDED, RUNG, Book
from orchestrator.tracking.events import metrics_from

EPOCHS = 16
FULL = ["sweep.trials=12"]
PRUNED = ["sweep.trials=24", "sweep.scheduler=asha", "sweep.reduction=4"]
"""Rungs after 1, 4 and 16 epochs: the trials cost 2.5 epochs each if the best quarter goes on every time."""
COMMON = [
    *("tracking=off", "tracking.system_metrics=false", f"job.epochs={EPOCHS}", "cluster.workers=1"),
    *("sweep.search=random", "sweep.metric=loss", "sweep.mode=min", "optimizer.lr=tag(log,interval(1e-4,1e-1))"),
]
SPACES = {
    "digits": ["job=digits", "model.width=4,8,16", "batch=32,64,128"],
    "diabetes": ["job=diabetes", "model.width=16,32,64", "model.depth=1,2,3", "batch=16,32,64"],
}


def carry_out(name: str, overrides: list[str], folder: Path) -> Book:
    """One sweep, to its end."""
    run([ORCHESTRATOR, "sweep", "--name", name, *COMMON, *overrides], folder, is_ray_worker)
    book = record.load(str(folder / "runs"), name).book()
    if failed := [trial.error for trial in book.trials.values() if trial.error]:
        raise SystemExit(f"trials of {name} failed: {failed}")
    return book


def until(book: Book, goal: float) -> Measurement:
    """Epochs trained until the best loss was at most `goal`, infinite if it never was; and in all."""
    trained: dict[int, float] = {}
    best, reached = math.inf, math.inf
    for entry in book.order:
        if entry["kind"] not in (RUNG, ENDED):
            continue
        trained[entry["number"]] = entry.get("at", book.trials[entry["number"]].at)
        if entry["kind"] == ENDED and entry["state"] == "finished":
            trained[entry["number"]] = EPOCHS
        best = min(best, metrics_from(entry["metrics"]).get("loss", math.inf))
        if best <= goal and math.isinf(reached):
            reached = sum(trained.values())
    return {"epochs": reached, "loss": best, "all_epochs": sum(trained.values())}


def seed(number: int, space: list[str], folder: Path) -> tuple[Measurement, Measurement]:
    """ASHA and random search, which begin with the same trials."""
    common = [*space, f"sweep.seed={number}", f"job.seed={number}"]
    whole = until(carry_out("full", [*common, *FULL], folder / "full"), -math.inf)
    pruned = until(carry_out("pruned", [*common, *PRUNED], folder / "pruned"), whole["loss"])
    return pruned, {**whole, "epochs": whole["all_epochs"]}


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """A pair is a seed."""
    results = []
    for name, space in SPACES.items():
        paired = []
        for number in range(pairs):
            pair = seed(number, space, folder / name / str(number))
            print(f"  {name}, seed {number}: {pair[0]}   {pair[1]}", flush=True)
            paired.append(pair)
        what = f"{name}: epochs of ASHA to the best loss of random search"
        result = Result(name=f"pruning-{name}", what=what, figure="epochs", target="<= 0.33", pairs=paired)
        print(f"  {name}: ratio {_spread(result.ratios)}; best loss of ASHA {_spread([a['loss'] for a, _ in paired])}, "
              f"of random search {_spread([b['loss'] for _, b in paired])}")  # fmt: skip
        results.append(result)
    return results


def _spread(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan
    return f"{statistics.mean(values):.4g} +- {spread:.2g}"
