"""What stays in a warm worker and what does not; how a training is paused; what a trial's folder tells."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import paths
from orchestrator.config import load
from orchestrator.foundation.storage import open_store
from orchestrator.plans.make import make
from orchestrator.plans.placement.inventory import Inventory, Node
from orchestrator.records import events
from orchestrator.records.events import Event
from orchestrator.runtime.fast_start.reset import forget_training
from orchestrator.runtime.worker.context import Launch, StoreContext
from orchestrator.runtime.worker.data.data_cache import KeptData
from orchestrator.sweeps.engine import exchange, trial_run
from orchestrator.sweeps.engine.trial_run import TrialRun
from orchestrator.task import Task

HERE = Inventory(nodes=(Node(name="here", cpus=4, memory=2**34),))


def launch(root: Path, **changes: Any) -> Launch:
    spec = {"data": {"_target_": "x"}, "job": {"task": "t"}}
    given = Launch(run_id="r", attempt=1, root=str(root), project="", world_size=1, plan={"spec": spec})
    return dataclasses.replace(given, **changes)


def test_a_training_is_paused_before_the_step_after_so_many(tmp_path: Path) -> None:
    """The loop asks once before each step."""
    ctx = StoreContext(launch(tmp_path), rank=0, world_size=1, local_rank=0, node_rank=0)
    assert [ctx.should_stop() for _ in range(4)] == [False] * 4
    ctx.pause_after(3)
    assert [ctx.should_stop() for _ in range(5)] == [False, False, False, True, True]
    ctx.pause_after(0)
    assert ctx.should_stop()


class Learns(Task):
    """Takes something from its dataset, as tasks do that decode what a model says."""

    size = 0

    def dataset(self, split: str) -> Any:
        made = super().dataset(split)
        self.size = len(made)  # type: ignore[arg-type]
        return made


def test_data_stays_in_memory_while_it_is_the_same_and_each_task_looks_at_it() -> None:
    made: list[str] = []

    def data(split: str) -> list[int]:
        made.append(split)
        return [1, 2]

    kept = KeptData()
    tasks = [Learns(torch.nn.Module, kept.data({"_target_": "x"}, data)) for _ in range(2)]
    assert tasks[0].dataset("train") is tasks[1].dataset("train")
    assert [task.size for task in tasks] == [2, 2]
    assert kept.data({"_target_": "x", "size": 8}, data)("train") == [1, 2]
    assert made == ["train", "train"]


def test_random_numbers_and_modes_are_those_that_the_process_began_with() -> None:
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    forget_training()
    drawn = torch.rand(3)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32
    forget_training()
    assert torch.equal(torch.rand(3), drawn)


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    loaded = load.load(["job=digits"])
    plan = make(loaded.resolved, loaded.spec, HERE, environment={}, shared_storage=False)
    trial_run.create(str(tmp_path), "s", 3, plan)
    return tmp_path / "trials/s-0003"


def told(root: Path, attempt: int, *evaluations: tuple[int, float], reason: str) -> None:
    """What a worker writes in a launch: an event a second."""
    last = evaluations[-1]
    written = [(events.STARTED, 0, {"parameters": 42, "world_size": 1})]
    for step, accuracy in evaluations:
        metrics = {"val/accuracy": accuracy, "val/loss": 1.0}
        written.append((events.EVALUATED, step, {"split": "val", "metrics": metrics}))
    written.append((events.FINISHED, last[0], {"reason": reason, "metrics": {"val/accuracy": last[1]}}))
    for moment, (kind, step, data) in enumerate(written):
        event = Event(kind=kind, time=10.0 * attempt + moment, attempt=attempt, step=step, data=data)
        open_store(str(root)).append(f"{paths.EVENTS}/rank-0.jsonl", event.to_line())


def test_a_trial_is_one_run_over_all_its_launches(trial: Path) -> None:
    run = TrialRun(str(trial))
    first = run.begin(pause_at=1)
    assert (first.attempt, first.pause_at, first.keeps_data, first.run_id) == (1, 1, True, "s-0003")
    told(trial, 1, (10, 0.5), reason="stopped")
    reached = run.end()
    assert (reached.stopped, reached.finished, reached.step) == (True, False, 10)
    assert reached.metrics == {"accuracy": 0.5, "loss": 1.0, "parameters": 42, "seconds": 2}
    again = TrialRun(str(trial))
    assert again.begin(pause_at=None).attempt == 2
    told(trial, 2, (20, 0.9), (30, 0.7), reason="done")
    reached = again.end()
    assert (reached.finished, reached.step) == (True, 30)
    assert reached.metrics["accuracy"] == 0.9  # the best checkpoint is kept
    assert reached.metrics["seconds"] == 5
    assert TrialRun(str(trial), newest_counts=True).metrics()["accuracy"] == 0.7
    record = json.loads((trial / paths.RECORD).read_text())
    assert (record["status"], len(record["attempts"]), record["step"]) == ("finished", 2, 30)


def test_the_exception_of_the_worker_that_failed_first_speaks_for_the_trial(trial: Path) -> None:
    run = TrialRun(str(trial))
    run.begin(None)
    for rank, moment in ((0, 2.0), (1, 1.0)):
        failure = {"rank": rank, "time": moment, "type": "ValueError", "message": f"of\nrank {rank}", "where": "f.py:3"}
        (trial / "failures").mkdir(exist_ok=True)
        (trial / paths.failure(1, rank)).write_text(json.dumps(failure))
    assert run.failure() == "ValueError: of rank 1 (f.py:3)"
    run.end(run.failure())
    run.begin(None)
    assert run.failure() == ""


def test_a_checkpoint_handed_on_takes_the_place_of_all_others(tmp_path: Path) -> None:
    giver, taker = tmp_path / "trials/s-0000", tmp_path / "trials/s-0001"
    for root, names in ((giver, ["step-00000010-a1", "step-00000020-a2"]), (taker, ["step-00000030-a1"])):
        for name in names:
            folder = root / "checkpoints" / name
            folder.mkdir(parents=True)
            (folder / "SHA256SUMS").write_text(name)
    (taker / "checkpoints/fence.json").write_text('{"attempt": 1, "admitted": []}')
    copy = exchange.hand_out(str(tmp_path), str(giver))
    assert copy == "s-0000/step-00000020-a2"
    exchange.take_over(str(tmp_path), copy, str(taker))
    assert [path.name for path in (taker / "checkpoints").iterdir()] == ["step-00000020-a2"]
    for step in (30, 40, 50):
        folder = giver / f"checkpoints/step-{step:08d}-a3"
        folder.mkdir()
        (folder / "SHA256SUMS").write_text("x")
        exchange.hand_out(str(tmp_path), str(giver))
    assert len(list((tmp_path / "exchange/s-0000").iterdir())) == exchange.KEPT
