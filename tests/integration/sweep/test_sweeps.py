"""Sweeps with real Ray, Ray Tune, DeepSpeed and Optuna."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest

from orchestrator.cli.main import main
from orchestrator.errors import ConfigError, PlanError, RunFailedError
from orchestrator.records import runs
from orchestrator.records.events import EventReader
from orchestrator.sweeps import driver
from orchestrator.sweeps.engine.ledger import CHANGED, HALVED, RUNG, State
from orchestrator.sweeps.report.report import Report
from tests.integration.sweep.sweeping import Watcher, begin, carry_out, check_each_ended_once, make
from tests.integration.training import carry_out as train
from tests.integration.training import curve

pytestmark = pytest.mark.matrix(3)

RATES = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_of(report: Report, number: int) -> runs.RunRecord:
    root, _, run_id = report.record.trial_root(number).rpartition("/")
    return runs.load(root, run_id)


def test_the_tenth_trial_of_a_worker_equals_its_plan_alone_to_the_bit(ray_address: str) -> None:
    """Strategies in turn, with dropout, on one process; each trial's curve and weights are those of its plan alone."""
    report = carry_out(
        ray_address,
        "tenth",
        "strategy=ddp,zero2",
        "model.dropout=0.1,0.2",
        "optimizer.lr=1e-3,2e-3,3e-3",
        "sweep.max_concurrent=1",
    )
    check_each_ended_once(report.book, 12)
    assert report.book.count(State.finished) == 12
    warm = run_of(report, 10)
    starts = [event.time for event in EventReader(warm.store).poll()]
    assert starts[-1] - warm.created < 5  # no process was started for it
    alone = train(warm.plan)
    assert curve(alone) == curve(warm)
    weights = "model/model.safetensors"
    assert (Path(alone.root) / weights).read_bytes() == (Path(warm.root) / weights).read_bytes()
    assert warm.final_metrics["val/loss"] == alone.final_metrics["val/loss"] == report.book.trials[10].metrics["loss"]


def test_a_trial_that_fails_ends_nothing(ray_address: str) -> None:
    report = carry_out(ray_address, "failing", "model.inputs=10,11", "optimizer.lr=1e-3,1e-2", "sweep.max_concurrent=1")
    check_each_ended_once(report.book, 4)
    states = {trial.values["model.inputs"]: trial.state for trial in report.book.trials.values()}
    assert states == {10: State.finished, 11: State.failed}
    failed = next(trial for trial in report.book.trials.values() if trial.state is State.failed)
    assert failed.error.startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert "linear.py:" in failed.error  # the innermost place, since no code of this project is among them
    assert run_of(report, failed.number).status is runs.Status.failed


def test_tpe_with_asha_ends_trials_early(ray_address: str) -> None:
    report = carry_out(
        ray_address, "asha", "job.epochs=9", RATES, "sweep.scheduler=asha", "sweep.trials=9", "sweep.search=tpe"
    )
    check_each_ended_once(report.book, 9)
    pruned = [trial for trial in report.book.trials.values() if trial.state is State.pruned]
    assert pruned
    assert {trial.at for trial in pruned} <= {1, 3}
    assert report.saved > report.spent
    best = report.best()
    assert best
    assert best.metrics["loss"] == min(t.metrics["loss"] for t in report.book.trials.values())


def test_a_trial_that_pauses_at_rungs_equals_one_that_does_not(ray_address: str) -> None:
    report = carry_out(
        ray_address, "rungs", "job.epochs=4", "optimizer.lr=1e-2,1e-5", "sweep.scheduler=median", "model.dropout=0.1"
    )
    paused = run_of(report, 0)
    assert [rung.at for rung in report.book.trials[0].rungs] == [1, 2, 3]
    alone = train(paused.plan)
    assert curve(alone) == curve(paused)
    assert alone.final_metrics["val/loss"] == paused.final_metrics["val/loss"]


def test_conditions_hold_in_every_trial(ray_address: str) -> None:
    Path("conf/sweep").mkdir(parents=True)
    Path("conf/sweep/rates.yaml").write_text(
        """
params:
  optimizer: adamw,sgd
  optimizer.momentum: {space: "0.5,0.9", when: optimizer == 'sgd'}
  batch: [16, 32, 64]
constraints:
  - batch < 64
"""
    )
    report = carry_out(ray_address, "conditions", "sweep=rates")
    check_each_ended_once(report.book, 6)
    for number, trial in report.book.trials.items():
        spec = run_of(report, number).plan.spec
        assert spec["batch"] in (16, 32)
        assert spec["optimizer"]["name"] == trial.values["optimizer"]
        assert spec["optimizer"]["momentum"] == trial.values.get("optimizer.momentum")
        assert ("optimizer.momentum" in trial.values) == (trial.values["optimizer"] == "sgd")


def test_two_objectives_give_a_front(ray_address: str) -> None:
    report = carry_out(
        ray_address,
        "front",
        "model.width=4,8,64",
        "optimizer.lr=1e-2,1e-6",
        "sweep.objectives=[loss:min,parameters:min]",
    )
    front = {trial.values["model.width"]: trial for trial in report.front()}
    assert 4 in front
    assert all(trial.metrics["parameters"] > 0 for trial in front.values())
    losses = [front[width].metrics["loss"] for width in sorted(front)]
    assert losses == sorted(losses, reverse=True)
    assert "Pareto front" in Path(report.record.root, "plots/sweep.html").read_text()


def test_population_based_training_hands_weights_on(ray_address: str) -> None:
    report = carry_out(
        ray_address,
        "population",
        "job.epochs=6",
        RATES,
        "sweep.scheduler=pbt",
        "sweep.rung=2",
        "sweep.trials=4",
        "sweep.search=random",
    )
    check_each_ended_once(report.book, 4)
    changes = [entry for entry in report.book.order if entry["kind"] == CHANGED]
    assert changes
    for change in changes:
        taker, giver = report.book.trials[change["number"]], report.book.trials[change["source"]]
        assert taker.number != giver.number
        assert 1e-4 <= taker.values["optimizer.lr"] <= 1e-1
        # What it went on from was better than what it had reached itself.
        before = [r for r in report.book.order if r["kind"] == RUNG and r["number"] == taker.number]
        assert taker.metrics["loss"] < before[0]["metrics"]["loss"]
        assert run_of(report, taker.number).plan.spec["optimizer"]["lr"] == taker.values["optimizer.lr"]


def test_trials_of_two_workers_under_zero2(ray_address: str) -> None:
    report = carry_out(
        ray_address, "pairs", "cluster.workers=2", "strategy=zero2", "optimizer.lr=1e-3,1e-2", "sweep.max_concurrent=1"
    )
    check_each_ended_once(report.book, 2)
    assert {run_of(report, number).attempts[-1].world_size for number in (0, 1)} == {2}
    alone = train(run_of(report, 1).plan)
    assert curve(alone) == curve(run_of(report, 1))


def test_fractions_of_a_cpu_let_more_trials_run_at_once(ray_address: str) -> None:
    report = carry_out(
        ray_address, "fractions", "cluster.cpus_per_worker=0.5", "optimizer.lr=1e-3,1e-2,1e-1", "sweep.max_concurrent=3"
    )
    check_each_ended_once(report.book, 3)
    spans = [(trial.created, trial.ended or math.inf) for trial in report.book.trials.values()]
    assert max(begin for begin, _ in spans) < min(end for _, end in spans)


@pytest.mark.parametrize(
    "how", [("sweep.search=gp",), ("sweep.search=cmaes",), ("sweep.search=qmc",), ("sweep.search=random", "sweep.scheduler=hyperband", "job.epochs=3")]
)  # fmt: skip
def test_other_ways_to_search(ray_address: str, how: tuple[str, ...]) -> None:
    report = carry_out(ray_address, "other", RATES, "sweep.trials=5", *how)
    check_each_ended_once(report.book, 5)
    assert report.best()


def test_a_target_ends_the_sweep(ray_address: str) -> None:
    report = carry_out(ray_address, "target", RATES, "sweep.trials=50", "sweep.search=random", "sweep.target=0.6")
    assert report.book.status == "finished"
    assert "reached sweep.target=0.6" in report.book.message
    assert report.over < 50
    best = report.best()
    assert best
    assert best.metrics["loss"] <= 0.6


def test_a_metric_that_is_never_reported(ray_address: str) -> None:
    with pytest.raises(RunFailedError, match="The metric 'f1' is never reported; there are: loss, mae") as caught:
        carry_out(ray_address, "metric", "optimizer.lr=1e-3,1e-2,1e-1", "sweep.metric=f1")
    assert caught.value.hint.startswith("Name one of them: sweep.metric=")


def test_a_name_in_use_with_another_space(ray_address: str) -> None:
    begin(ray_address, "taken", "optimizer.lr=1e-3,1e-2")
    with pytest.raises(ConfigError, match="Sweep taken exists already with another space"):
        begin(ray_address, "taken", "optimizer.lr=1e-3,1e-1")
    again, _ = begin(ray_address, "taken", "optimizer.lr=1e-3,1e-2")
    assert again.name == "taken"


def test_memory_of_warm_workers_does_not_grow(ray_address: str) -> None:
    """Fifty trials in one worker, under strategies in turn, each of which imports parts of torch of its own."""
    record_, definition = begin(
        ray_address,
        "memory",
        "job=digits",
        "job.epochs=1",
        "job.steps=null",
        "model.width=8",
        "job.seed=range(0,26)",
        "strategy=ddp,zero2",
        "sweep.max_concurrent=1",
    )
    held: dict[int, int] = {}

    class Scales(Watcher):
        def show(self, report: Report) -> None:
            found = [
                p for p in psutil.process_iter(["cmdline"]) if "ray::GangMember" in " ".join(p.info["cmdline"] or [])
            ]
            if found:
                held.setdefault(report.over, max(process.memory_info().rss for process in found))

    report = driver.carry_out(record_, definition, Scales())
    check_each_ended_once(report.book, 52)
    early = min(number for number in held if number >= 5)
    late = max(held)
    assert late >= 45
    assert held[late] <= 1.1 * held[early], held


HUNGRY = """
import resource
import psutil
import torch
from torch.utils.data import TensorDataset
from orchestrator import Task

GIB = 2**30

class Hungry(Task):
    def loss(self, model, batch):
        x, y = batch
        room = psutil.Process().memory_info().vms + 2 * GIB
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
        torch.empty(len(x) * GIB // 6, dtype=torch.uint8)
        return ((model(x) - y) ** 2).sum()

def model():
    return torch.nn.Linear(1, 1)

def data(split):
    x = torch.linspace(-1, 1, 64)[:, None]
    return TensorDataset(x, 2 * x)
"""
OWN = (
    "job=diabetes",
    "job.task=hungry:Hungry",
    "job.epochs=1",
    "~model",
    "+model={_target_: 'hungry:model'}",
    "~data",
    "+data={_target_: 'hungry:data'}",
    "tracking=off",
    "sweep.max_concurrent=1",
)


@pytest.mark.parametrize(("halvings", "ends"), [(0, State.failed), (2, State.finished)])
def test_a_trial_without_memory_goes_on_with_half_the_micro_batch(
    ray_address: str, halvings: int, ends: State, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("hungry.py").write_text(HUNGRY)
    Path("pyproject.toml").write_text(
        '[tool.orchestrator]\nexports = ["hungry:Hungry", "hungry:model", "hungry:data"]\n'
    )
    where = f"cluster.address={ray_address}"
    report = driver.carry_out(*make("hungry", *OWN, "batch=8,32", where, f"sweep.halvings={halvings}"), Watcher())
    check_each_ended_once(report.book, 2)
    small, large = report.book.trials[0], report.book.trials[1]
    assert (small.state, small.micro_batch) == (State.finished, None)
    assert (large.state, large.micro_batch) == (ends, 8 if halvings else None)
    if not halvings:
        assert "can't allocate memory" in large.error
        return
    run = run_of(report, 1)
    row = run.plan.preferred
    assert (row.batch, row.micro_batch, row.accumulation) == (32, 8, 4)
    assert ["allocate memory" in attempt.error for attempt in run.attempts] == [True, True, False]
    assert [entry["micro_batch"] for entry in report.book.order if entry["kind"] == HALVED] == [8]
    assert main(["sweep", "show", "hungry"]) == 0
    assert "batch=32  (micro_batch=8: it ran out of memory)" in capsys.readouterr().out


SCRIPT = """
import sys
import orchestrator

lr = float(sys.argv[1])
for step in (1, 2, 3):
    orchestrator.report(step, loss=(lr - 0.01) ** 2 / step, **{"val/error": lr})
if lr > 0.05:
    raise ValueError("too fast")
"""


def test_a_script_of_ones_own_is_judged_by_what_it_reports(ray_address: str) -> None:
    Path("train.py").write_text(SCRIPT)
    words = ("job=script", "script=train.py", "script_args=['${optimizer.lr}']", "optimizer.lr=1e-3,1e-2,1e-1")
    common = (f"cluster.address={ray_address}", "tracking=off", "sweep.max_concurrent=1")
    report = driver.carry_out(*make("script", *words, *common, "sweep.metric=loss", "sweep.mode=min"), Watcher())
    check_each_ended_once(report.book, 3)
    trials = report.book.trials
    assert [trials[number].state for number in range(3)] == [State.finished, State.finished, State.failed]
    assert trials[0].metrics["loss"] == pytest.approx((1e-3 - 0.01) ** 2 / 3)
    assert trials[0].metrics["error"] == 1e-3
    assert "ValueError: too fast" in trials[2].error
    best = report.best()
    assert best
    assert best.number == 1
    with pytest.raises(PlanError, match="asha pauses trials at rungs"):
        make("pruned", *words, *common, "sweep.scheduler=asha", "job.epochs=3")
