"""What a sweep is, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.plans.placement.inventory import Gpu, Inventory, Node
from orchestrator.sweeps import record
from orchestrator.sweeps.definition import define, grid_values
from orchestrator.sweeps.trials import Planner, concurrency

HERE = Inventory(nodes=(Node(name="here", cpus=4, memory=2**34),))
GPUS = Inventory(
    nodes=(Node(name="here", cpus=4, memory=2**34, gpus=(Gpu(name="x", memory=2**34), Gpu(name="x", memory=2**34))),)
)
LR = "optimizer.lr=interval(0.1,1)"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(*overrides: str) -> object:
    definition = define(["job=digits", *overrides])
    Planner(definition, HERE).check_all()
    return definition


@pytest.mark.parametrize(
    ("overrides", "search", "trials"),
    [
        (["batch=32,64"], "grid", 2),
        (["batch=32,64", "sweep.trials=5"], "tpe", 5),
        ([LR], "tpe", 20),
        (["batch=32,64", "sweep.search=grid", "sweep.trials=1"], "grid", 1),
        ([LR, "sweep.search=random", "sweep.trials=7"], "random", 7),
    ],
)
def test_search_and_number_of_trials(overrides: list[str], search: str, trials: int) -> None:
    definition = define(["job=digits", *overrides])
    assert (definition.search.value, definition.trials) == (search, trials)


@pytest.mark.parametrize(
    ("overrides", "rungs"),
    [
        (["sweep.scheduler=asha"], [1, 3, 9]),
        (["sweep.scheduler=asha", "sweep.reduction=2", "sweep.rung=2"], [2, 4, 8]),
        (["sweep.scheduler=median", "job.epochs=4"], [1, 2, 3]),
        (["sweep.scheduler=median", "job.epochs=4.5", "sweep.rung=2"], [2, 4]),
        (["sweep.scheduler=pbt", "sweep.rung=5"], [5]),
        (["sweep.scheduler=asha", "job.epochs=null", "job.steps=100", "sweep.rung=10", "job.evaluate.steps=10"], [10, 30, 90]),
        ([], []),
    ],
)  # fmt: skip
def test_rungs_lie_before_the_end(overrides: list[str], rungs: list[int]) -> None:
    assert define(["job=digits", LR, *overrides]).rungs == rungs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([LR, "sweep.search=grid"], "sweep.search=grid needs a finite space, and optimizer.lr has any number between two."),
        (["batch=32,64", "sweep.constraints=['batch > 64']"], "No trial of the grid meets sweep.constraints."),
        (["batch=range(1,1000)", "job.seed=range(0,1000)"], "The grid has more than 100000 trials."),
        ([LR, "cluster=torchrun"], "Sweeps run on Ray, but cluster.launcher=torchrun."),
        ([LR, "sweep.objectives=[loss:min,accuracy:max]", "sweep.scheduler=asha"], "sweep.scheduler=asha ends trials by one metric, and sweep.objectives has 2."),
        ([LR, "sweep.objectives=[loss:min,accuracy:max]", "sweep.search=cmaes"], "sweep.search=cmaes takes one metric, not several."),
        ([LR, "sweep.objectives=[loss:min]", "sweep.metric=loss"], "sweep.metric=loss and sweep.objectives both say what to search by"),
        ([LR, "sweep.scheduler=asha", "job.epochs=2,4"], "sweep.scheduler=asha compares trials at equal times, so that job.epochs cannot differ."),
        ([LR, "sweep.scheduler=asha", "job.epochs=1"], "sweep.rung=1 is not before the end of the training (1 epochs)."),
        ([LR, "sweep.scheduler=asha", "job.evaluate.epochs=2"], "sweep.scheduler=asha judges trials every 1 epochs (sweep.rung), but job.evaluate.epochs=2."),
        ([LR, "sweep.scheduler=pbt", "model.width=8,16"], "sweep.scheduler=pbt hands weights from one trial to another, so that model.width cannot differ."),
        ([LR, "sweep.scheduler=pbt", "optimizer=sgd,adamw"], "sweep.scheduler=pbt changes settings while trials train, which optimizer cannot be."),
        ([LR, "sweep.scheduler=pbt", "sweep.trials=2"], "sweep.scheduler=pbt needs 4 trials or more, not 2."),
        ([LR, "sweep.gpu_hours=1"], "sweep.gpu_hours limits GPU hours, but cluster.gpus_per_worker gives trials no GPU."),
        ([LR, "sweep.objectives=[loss]"], "sweep.objectives=loss does not say which way is better"),
        ([LR, "job=script", "script=train.py", "sweep.scheduler=asha"], "sweep.scheduler=asha pauses trials at rungs, and script=train.py trains without them."),
        ([LR, "sweep.trials=0"], "sweep.trials=0 is out of range: it must be greater than 0"),
        ([LR, "sweep.reduction=1"], "sweep.reduction=1 is out of range: it must be 2 or more"),
        ([LR, "sweep.search=best"], "sweep.search=best is not one of grid, random, qmc, tpe, gp, cmaes"),
        (["batch=32,33", "cluster.workers=2"], "batch=33 does not divide by 2 data-parallel workers (trial 1: batch=33). Nearest batch sizes: 32, 34."),
        (["model.widht=8,16"], "model.widht is not in the config (on the command line: model.widht=8) (trial 0: model.widht=8). Did you mean model.width?"),
        (["optimizer.name=sgd,adamw", "optimizer.momentum=0.5,0.9"], "optimizer.momentum=0.5 means nothing to adamw (on the command line: optimizer.momentum=0.5) (trial 2: optimizer.name=adamw)."),
        (["cluster.gpus_per_worker=1,2"], "1 worker"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(OrchestratorError) as caught:
        sweep(*overrides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_trials_plan_is_that_of_a_training_with_its_overrides(tmp_path: Path) -> None:
    from orchestrator.config import load
    from orchestrator.plans.make import make

    definition = define(["job=digits", "model=small_resnet,inception", "batch=32,64", "sweep.seed=4"])
    planner = Planner(definition, HERE)
    values = grid_values(definition)[3]
    loaded = load.load(["job=digits", *definition.space.overrides(values)])
    alone = make(loaded.resolved, loaded.spec, HERE, environment={}, shared_storage=False)
    assert planner.plan(values).spec == alone.spec
    assert planner.plan(values).rows == alone.rows
    assert "sweep" not in alone.spec


@pytest.mark.parametrize(
    ("overrides", "there", "at_once"),
    [
        ([], HERE, 4),
        (["cluster.workers=2"], HERE, 2),
        (["cluster.cpus_per_worker=0.5"], HERE, 8),
        (["cluster.cpus_per_worker=3"], HERE, 1),
        ([], GPUS, 2),
        (["cluster.gpus_per_worker=0.5"], GPUS, 4),
        (["sweep.max_concurrent=3"], HERE, 3),
    ],
)
def test_as_many_trials_at_once_as_there_is_room_for(overrides: list[str], there: Inventory, at_once: int) -> None:
    definition = define(["job=digits", LR, *overrides])
    plan = Planner(definition, there).plan({"optimizer.lr": 0.5})
    assert concurrency(definition, plan, there) == at_once


def test_a_name_stands_for_one_space_and_one_config(tmp_path: Path) -> None:
    overrides = ["job=digits", "batch=32,64"]
    first = record.create(define(overrides), "mine", 0, 1)
    assert record.create(define(overrides), "mine", 0, 1) == first
    for others in (["batch=32,16"], ["optimizer.lr=0.1", "batch=32,64"], ["batch=32,64", "sweep.scheduler=asha"]):
        with pytest.raises(OrchestratorError, match="Sweep mine exists already with another space or other settings"):
            record.create(define(["job=digits", *others]), "mine", 0, 1)
    assert record.load("runs", "mi") == first
    assert record.load("runs", "last") == first
    with pytest.raises(OrchestratorError, match="There is no sweep 'yours'"):
        record.load("runs", "yours")


def test_a_resumed_sweep_is_refused_when_its_config_has_changed(tmp_path: Path) -> None:
    (tmp_path / "conf/sweep").mkdir(parents=True)
    file = tmp_path / "conf/sweep/mine.yaml"
    file.write_text("params: {batch: [32, 64]}\n")
    known = record.create(define(["job=digits", "sweep=mine"]), "mine", 0, 1)
    assert record.load("runs", "mine").definition().trials == 2
    file.write_text("params: {batch: [32, 64, 128]}\n")
    with pytest.raises(OrchestratorError, match="The config of sweep mine has changed since it began"):
        known.definition()


@pytest.mark.parametrize("name", ["list", "resume", "a/b", "-x", "last"])
def test_names_that_would_not_be_understood(name: str) -> None:
    with pytest.raises(OrchestratorError, match="A sweep cannot have the name"):
        record.check_name(name)


def test_half_the_micro_batch_leaves_the_global_batch() -> None:
    planner = Planner(define(["job=digits", "batch=30,48", "cluster.workers=2", "accumulation=1"]), HERE)
    plan, factors = planner.plan({"batch": 30}), []
    while plan:
        row = plan.preferred
        factors.append((row.batch, row.micro_batch, row.accumulation))
        last, plan = plan, planner.halved({"batch": 30}, plan)
    assert factors == [(30, 15, 1), (30, 5, 3), (30, 1, 15)]
    assert last.preferred.deepspeed["gradient_accumulation_steps"] == 15
