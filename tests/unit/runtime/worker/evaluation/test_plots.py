"""Answers and the pictures made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator import paths
from orchestrator.foundation.storage import Store, open_store
from orchestrator.records import events
from orchestrator.records.events import EventWriter
from orchestrator.runtime.worker.evaluation import plots, results
from orchestrator.runtime.worker.evaluation.answers import Answers, of_batch
from orchestrator.task import Task

PNG = b"\x89PNG"


class Halves(Task):
    shown = 5

    def __init__(self) -> None:
        self.asked = 0

    def show(self, model: nn.Module, batch: Tensor) -> Mapping[str, Tensor]:
        self.asked += 1
        return {"truth": batch, "answer": batch / 2}


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run") if request.param == "folder" else f"memory://{tmp_path.name}/run")


def test_a_task_is_asked_about_as_many_items_as_it_shows() -> None:
    task = Halves()
    answers = Answers(task, batch=2)
    for start in range(0, 10, 2):
        answers.ask(None, torch.tensor([start, start + 1.0]), counts=start != 2)
    assert task.asked == 3
    assert answers.rows == [{"truth": k, "answer": k / 2} for k in (0.0, 1.0, 4.0, 5.0)]


def test_a_task_that_shows_nothing_is_not_asked() -> None:
    answers = Answers(Task(nn.Identity, lambda split: None), batch=2)
    answers.ask(None, torch.zeros(2), counts=True)
    assert answers.rows == []


def test_a_classifier_tells_how_sure_it_is() -> None:
    shown = of_batch(torch.tensor([1]), torch.tensor([[0.0, math.log(3)]]))
    assert {name: value.item() for name, value in shown.items()} == {
        "truth": 1,
        "answer": 1,
        "confidence": pytest.approx(0.75),
    }


@pytest.mark.parametrize(
    ("rows", "files"),
    [
        ([{"truth": 1, "answer": 0, "confidence": 0.6}] * 3, {"calibration.png", "confusion.png"}),
        ([{"truth": 1, "answer": 77, "confidence": 0.6}], {"calibration.png"}),
        ([{"truth": 1.5, "answer": 0.25}] * 3, {"predicted.png", "errors.png"}),
        ([{"truth": "one two", "answer": "one"}], {"samples.md"}),
        ([], set()),
    ],
    ids=["classes", "many-classes", "numbers", "texts", "nothing"],
)
def test_what_is_drawn_depends_on_the_kind_of_answers(rows: list[dict[str, Any]], files: set[str]) -> None:
    drawn = plots.of_answers(rows, ["cat", "dog"])
    assert set(drawn) == files
    assert all(content.startswith(PNG) for name, content in drawn.items() if name.endswith(".png"))


def test_samples_begin_with_what_is_wrong() -> None:
    rows = [{"truth": "a|b", "answer": "a|b"}, {"truth": "one", "answer": "two"}]
    text = plots.of_answers(rows)["samples.md"].decode()
    assert text.splitlines()[2:] == ["| one | two |", "| a\\|b | a\\|b |"]


def test_all_workers_answers_are_kept_in_one_folder(store: Store) -> None:
    for rank in range(2):
        answers = Answers(Halves(), batch=2)
        answers.ask(None, torch.tensor([rank, math.nan]), counts=True)
        results.leave(store, "test", rank, answers)
    rows = results.gather(store, "test")
    files = results.keep(store, "test", {"step": 3, "metrics": {"loss": math.inf}}, rows)
    assert files == ["answers.jsonl", "errors.png", "metrics.json", "predicted.png"]
    place = f"{paths.EVALUATIONS}/test"
    assert json.loads(store.read(f"{place}/metrics.json"))["metrics"] == {"loss": "Infinity"}
    kept = [json.loads(line) for line in store.read(f"{place}/answers.jsonl").splitlines()]
    assert [row["truth"] for row in kept] == [0.0, "NaN", 1.0, "NaN"]
    assert results.gather(store, "test") == [], "the parts are gone"


def test_losses_of_all_attempts_are_one_picture(store: Store) -> None:
    for attempt in (1, 2):
        writer = EventWriter(store, "rank-0", attempt, interval_s=0)
        writer.emit(events.METRICS, attempt, metrics={"train/loss": 1.0 / attempt, "val/loss": math.nan})
        writer.emit(events.METRICS, None, metrics={"system/node-0/cpu_percent": 5.0})
        writer.flush()
    results.keep_loss_curves(store)
    assert store.list(paths.PLOTS) == [results.LOSS]


def test_without_losses_nothing_is_drawn() -> None:
    assert plots.loss_curves([("train/lr", 1, 0.1), ("train/loss", 1, math.nan)]) is None
