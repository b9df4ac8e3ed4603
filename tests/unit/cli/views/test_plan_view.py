"""The plan as people read it."""

from __future__ import annotations

import dataclasses
import io
import re

from rich.console import Console

from orchestrator.cli.views.plan import render
from orchestrator.config.schema import Cluster, Job, Schedule, ScheduleName, Strategy, StrategyName, Tracking
from orchestrator.plans.memory.profile_types import Activations, ModelProfile, Parameter
from orchestrator.plans.types import Plan, Spot
from tests.unit.plans.plan_specs import A100, machine, plan, spec


def shown(made: Plan) -> str:
    out = io.StringIO()
    render(made, Console(file=out, width=140))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_single_size() -> None:
    wanted = spec(
        job=Job(name="demo", task="jobs.demo:Demo", epochs=2, clip=1.0),
        micro_batch=16,
        cluster=Cluster(workers=2),
        strategy=Strategy(name=StrategyName.zero2_offload),
        schedule=Schedule(name=ScheduleName.cosine, warmup_fraction=0.1),
        tracking=Tracking(uri="http://host:5000"),
    )
    text = shown(plan(wanted, machine(gpus=(A100, A100))))
    for part in (
        "jobs.demo:Demo",
        "2 epochs",
        "2 on this machine, started by ray",
        "1 CPU, 1 GPU, 1 thread",
        "64 = 16 x 2 x 2 (micro x accumulation x data-parallel)",
        "ZeRO 2, optimizer offloaded to cpu, communication overlapped, reduce bucket 50,000,000, clipping at 1",
        "AdamW lr=0.001",
        "cosine after warmup over 10% of the steps, down to 0 of the peak",
        "every epoch and at the end, the newest 2 kept, and the best (min loss)",
        "MLflow at http://host:5000",
    ):
        assert part in text
    assert "Notes" not in text
    assert "Admissible" not in text


def test_range_with_what_cannot_run_and_notes() -> None:
    text = shown(plan(spec(batch=60, micro_batch=4, cluster=Cluster(workers="5..8", address="head:6379"))))
    assert "6 (admissible: 5, 6) on 1 node of head:6379, started by ray" in text
    assert "7 workers: batch=60 does not divide by 7 data-parallel workers" in text
    assert "The run starts with as many workers as there is room for, at most 6." in text


def test_placement_is_shown() -> None:
    assert "Placement    1 worker on host\n" in shown(plan(spec()))
    made = plan(spec(cluster=Cluster(workers=2)), machine(gpus=(A100, A100)))
    assert "2 workers on host (A100)" in shown(made)
    spots = tuple(Spot(node=f"n{number}", workers=2, gpu="A100" if number else "") for number in range(10))
    text = shown(dataclasses.replace(made, placement=spots))
    assert "2 workers on n0, 2 on n1 (A100), 2 on n2 (A100)" in text
    assert "and on 2 more nodes" in text


def test_memory_on_gpus() -> None:
    layers = (Parameter(name="layer.weight", numel=2**30),)
    profile = ModelProfile(
        parameters=layers, buffer_bytes=0, activations=(Activations(micro_batch=64, bytes=2**30, batch_bytes=0),)
    )
    text = shown(plan(spec(), machine(gpus=(A100,)), profile=profile))
    for part in (
        r"Memory of each worker",
        r"GPU +host",
        r"parameters +4 GiB\n",
        r"optimizer states +8 GiB",
        r"activations +1 GiB\n",
        r"at the fullest +20 GiB +12 GiB",
        r"there is +80 GiB: fits +16 GiB: fits",
    ):
        assert re.search(part, text), part


def test_memory_without_activations_is_a_lower_bound() -> None:
    profile = ModelProfile(parameters=(Parameter(name="layer.weight", numel=2**33),), buffer_bytes=0)
    text = shown(plan(spec(), machine(gpus=(A100,)), profile=profile))
    assert re.search(r"activations +unknown", text)
    assert re.search(r"at the fullest +at least 160 GiB", text)
    assert "80 GiB: does not fit" in text
    assert "Does not fit: each worker needs" in text


def test_markup_in_names_is_not_markup() -> None:
    assert "[red]x" in shown(plan(spec(job=Job(name="demo", task="jobs.demo:[red]x", steps=1))))


def test_a_plan_from_elsewhere_with_an_empty_spec_is_shown() -> None:
    made = plan(spec()).to_dict()
    assert "64 = 64 x 1 x 1" in shown(Plan.from_dict({**made, "spec": {}}))
