"""Epochs that ASHA trains until it has the loss that random search has after training every trial in full, and the loss
that it has after a third of those epochs. With `--folder`, sweeps that an interrupted benchmark left finished are kept.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Measurement, Result, run
from benchmarks.training import ORCHESTRATOR, is_ray_worker
from orchestrator.records.events import metrics_from
from orchestrator.sweeps import record
from orchestrator.sweeps.engine.ledger import ENDED, RUNG, Book

EPOCHS = 18
FULL = ["sweep.search=random", "sweep.trials=20"]
SAME = [*FULL, "sweep.scheduler=asha", "sweep.rung=3", "sweep.reduction=6"]
"""The same trials. Who is best in the end shows after 3 epochs, not yet after 1; the best sixth goes on to the end."""
CHOSEN = ["sweep.search=tpe", "sweep.trials=32", "sweep.scheduler=asha", "sweep.rung=2", "sweep.reduction=9"]
"""Trials that the sampler chooses by what rungs tell it, as a sweep does that names no search."""
COMMON = [
    *("tracking=off", "tracking.system_metrics=false", f"job.epochs={EPOCHS}", "cluster.workers=1"),
    *("job.monitor.metric=loss", "job.monitor.mode=min"),
    *("sweep.metric=loss", "sweep.mode=min", "optimizer.lr=tag(log,interval(1e-4,1e-1))"),
]
SPACES = {
    "digits": ["job=digits", "model.width=4,8,16", "batch=32,64,128"],
    "diabetes": ["job=diabetes", "model.width=16,32,64", "model.depth=1,2,3", "batch=16,32,64"],
}
COMPARISONS = [("digits", "asha", SAME), ("diabetes", "asha", SAME), ("diabetes", "asha with tpe", CHOSEN)]


def carry_out(name: str, overrides: list[str], folder: Path) -> Book:
    """One sweep, to its end."""
    if not (folder / "runs" / name).exists() or record.load(str(folder / "runs"), name).book().status != "finished":
        run([ORCHESTRATOR, "sweep", "--name", name, *COMMON, *overrides], folder, is_ray_worker)
    book = record.load(str(folder / "runs"), name).book()
    if failed := [trial.error for trial in book.trials.values() if trial.error]:
        raise SystemExit(f"trials of {name} failed: {failed}")
    return book


def history(book: Book) -> Iterator[tuple[float, float]]:
    """After each rung: epochs trained by all trials so far, and the best loss so far."""
    trained: dict[int, float] = {}
    best = math.inf
    for entry in book.order:
        if entry["kind"] not in (RUNG, ENDED):
            continue
        trained[entry["number"]] = entry.get("at", book.trials[entry["number"]].at)
        if entry["kind"] == ENDED and entry["state"] == "finished":
            trained[entry["number"]] = EPOCHS
        best = min(best, metrics_from(entry["metrics"]).get("loss", math.inf))
        yield sum(trained.values()), best


def full(book: Book) -> Measurement:
    """Random search, to its end."""
    epochs, loss = list(history(book))[-1]
    return {"epochs": epochs, "loss": loss}


def pruned(book: Book, other: Measurement) -> Measurement:
    """Epochs until it was as good as the other search, or infinity; and its loss after a third of what that trained."""
    told = list(history(book))
    return {
        "epochs": next((epochs for epochs, loss in told if loss <= other["loss"]), math.inf),
        "loss": [loss for epochs, loss in told if epochs <= other["epochs"] / 3][-1],
        "all_epochs": told[-1][0],
    }


def seed(number: int, space: str, name: str, settings: list[str], folder: Path) -> tuple[Measurement, Measurement]:
    """ASHA and random search with one seed; of the latter, comparisons share what they have."""
    common = [*SPACES[space], f"sweep.seed={number}", f"job.seed={number}"]
    whole = full(carry_out("full", [*common, *FULL], folder / space / str(number)))
    return pruned(carry_out(name, [*common, *settings], folder / space / str(number)), whole), whole


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """A pair is a seed."""
    results = []
    for space, how, settings in COMPARISONS:
        name, paired = f"{space}, {how}", []
        for number in range(pairs):
            pair = seed(number, space, how.replace(" ", "-"), settings, folder)
            print(f"  {name}, seed {number}: {pair[0]}   {pair[1]}", flush=True)
            paired.append(pair)
        what = f"{name}: epochs to the best loss of random search"
        result = Result(name=f"pruning {name}", what=what, figure="epochs", target="<= 0.33", pairs=paired)
        print(told(name, paired))
        results.append(result)
    return results


def told(name: str, pairs: list[tuple[Measurement, Measurement]]) -> str:
    """Mean and spread over the seeds."""
    third, whole = ([side["loss"] for side in sides] for sides in zip(*pairs, strict=True))
    ratios = [ratio for ours, other in pairs if math.isfinite(ratio := ours["epochs"] / other["epochs"])]
    return (
        f"  {name}: best loss after a third of the epochs {_spread(third)}, of random search after all "
        f"{_spread(whole)}; as good in {len(ratios)} of {len(pairs)}, after {_spread(ratios)} of the epochs"
    )


def _spread(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4g} +- {spread:.2g}"
