"""Sweeps in tests: small jobs on the Ray that tests share."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.sweep import driver, record
from orchestrator.sweep.definition import Definition, define
from orchestrator.sweep.ledger import ENDED, TRIAL, Book
from orchestrator.sweep.planner import Planner
from orchestrator.sweep.record import SweepRecord
from orchestrator.sweep.report import Report

SMALL = ["job=diabetes", "job.epochs=2", "model.width=16", "tracking.system_metrics=false", "sweep.max_concurrent=2"]


@dataclass
class Watcher:
    """A view that keeps what it is told."""

    said: list[str] = field(default_factory=list)
    shown: Report | None = None

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, report: Report) -> None:
        self.shown = report


def begin(ray_address: str, name: str, *overrides: str, tracked: bool = False) -> tuple[SweepRecord, Definition]:
    """A sweep that has not been carried out yet."""
    common = [*SMALL, f"cluster.address={ray_address}", *([] if tracked else ["tracking=off"])]
    definition = define([*common, *overrides])
    plan = Planner(definition).check_all()[0][1]
    return record.create(definition, name, plan.resources.gpus, plan.preferred.world_size), definition


def carry_out(ray_address: str, name: str, *overrides: str, tracked: bool = False) -> Report:
    """A sweep, to its end."""
    return driver.carry_out(*begin(ray_address, name, *overrides, tracked=tracked), Watcher())


def go_on(name: str) -> Report:
    """Resume, as another process would."""
    known = record.load("runs", name)
    return driver.carry_out(known, known.definition(), Watcher())


def check_each_ended_once(book: Book, trials: int) -> None:
    """Every trial was chosen once and ended once."""
    for kind in (TRIAL, ENDED):
        numbers = [entry["number"] for entry in book.order if entry["kind"] == kind]
        assert sorted(numbers) == list(range(trials)), (kind, numbers)
