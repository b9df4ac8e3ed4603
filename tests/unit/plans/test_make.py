"""What the planner decides and refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from orchestrator.config.schema import (
    Cluster,
    Job,
    JobSpec,
    LauncherName,
    Mesh,
    Precision,
    PrecisionName,
    Schedule,
    Storage,
    Strategy,
    StrategyName,
    Tracking,
)
from orchestrator.errors import MachineError, OrchestratorError, PlanError
from orchestrator.plans.placement.inventory import Free, Gpu, Inventory, Node
from orchestrator.plans.types import Plan, Spot
from tests.unit.plans.plan_specs import A100, V100, machine, plan, spec

BF16 = Precision(name=PrecisionName.bf16)
FP16 = Precision(name=PrecisionName.fp16)
SHARED = Storage(path="s3://bucket/runs")
SERVER = Tracking(uri="http://host:5000")
ELSEWHERE = Inventory(known=False)


def job(**parts: Any) -> Job:
    return Job(name="demo", task="jobs.demo:Demo", **parts)


def two_nodes(**parts: Any) -> JobSpec:
    given: dict[str, Any] = {"storage": SHARED, "tracking": SERVER}
    return spec(cluster=Cluster(nodes=2, workers=2, address="head:6379"), **{**given, **parts})


@pytest.mark.parametrize(
    ("wanted", "inventory", "kind", "message"),
    [
        (spec(job=job()), None, PlanError, "Nothing says how long to train: job.epochs and job.steps are both null."),
        (
            spec(job=job(epochs=1.5, steps=10)),
            None,
            PlanError,
            "job.epochs=1.5 and job.steps=10 both say how long to train.",
        ),
        (
            spec(job=job(steps=10), schedule=Schedule(warmup_steps=11)),
            None,
            PlanError,
            "schedule.warmup_steps=11 is longer than the whole training of 10 steps.",
        ),
        (
            spec(mesh=Mesh(tensor=2), strategy=Strategy(name=StrategyName.zero3)),
            None,
            PlanError,
            "mesh.tensor=2 does not go together with strategy=zero3.",
        ),
        (
            spec(mesh=Mesh(tensor=2), precision=BF16),
            None,
            PlanError,
            "mesh.tensor=2 with strategy=ddp needs precision=fp32: in bf16, DeepSpeed takes each worker's part of the "
            "gradient for the whole when it clips.",
        ),
        (
            spec(strategy=Strategy(name=StrategyName.zero3_nvme)),
            None,
            PlanError,
            "strategy=zero3_nvme keeps optimizer states in a folder on a disk of each node, but "
            "strategy.nvme_path=null.",
        ),
        (
            spec(strategy=Strategy(name=StrategyName.zero3_nvme, nvme_path="/nvme")),
            Inventory(nodes=(Node(name="host", cpus=8, memory=16 << 30, nvme_lacks=("libaio.h", "ninja")),)),
            MachineError,
            "strategy=zero3_nvme cannot run on host: libaio.h, ninja missing there, with which DeepSpeed compiles its "
            "way to the disk.",
        ),
        (spec(mesh=Mesh(pipeline=2)), None, PlanError, "mesh.pipeline=2 is not supported yet."),
        (
            spec(cluster=Cluster(launcher=LauncherName.torchrun, address="head:6379")),
            None,
            PlanError,
            "cluster.launcher=torchrun starts processes on this machine, but cluster.address=head:6379 names a Ray "
            "cluster.",
        ),
        (
            spec(cluster=Cluster(launcher=LauncherName.torchrun, nodes=2)),
            None,
            PlanError,
            "cluster.launcher=torchrun runs on one host, but cluster.nodes=2.",
        ),
        (
            two_nodes(storage=Storage(path="runs")),
            ELSEWHERE,
            PlanError,
            "cluster.nodes=2 needs storage that every node sees, but storage.path=runs lies on this host's own disk: "
            "checkpoints of workers elsewhere would be lost.",
        ),
        (
            two_nodes(tracking=Tracking()),
            ELSEWHERE,
            PlanError,
            "cluster.nodes=2 needs a tracking server: tracking.uri=null is a SQLite file that only this host can "
            "write.",
        ),
        (
            two_nodes(tracking=Tracking(uri="sqlite:///a.db")),
            ELSEWHERE,
            PlanError,
            "cluster.nodes=2 needs a tracking server: tracking.uri=sqlite:///a.db is a SQLite file that only this host "
            "can write.",
        ),
        (
            spec(cluster=Cluster(nodes=2), storage=SHARED, tracking=SERVER),
            None,
            PlanError,
            "cluster.nodes=2 needs a running Ray cluster: cluster.address=null starts one on this host only.",
        ),
        (spec(precision=FP16), None, MachineError, "precision=fp16 needs GPUs, and there are none."),
        (
            spec(precision=FP16, cluster=Cluster(gpus_per_worker=0)),
            machine(gpus=(A100,)),
            PlanError,
            "precision=fp16 needs GPUs, but cluster.gpus_per_worker=0.",
        ),
        (
            spec(precision=BF16),
            machine(gpus=(V100,)),
            MachineError,
            "precision=bf16 needs GPUs of compute capability 8.0, but V100 has 7.0.",
        ),
        (
            spec(cluster=Cluster(workers=4)),
            machine(gpus=(A100, A100)),
            MachineError,
            "4 workers with 1 GPU each need 4 GPUs, and there are 2.",
        ),
        (
            spec(cluster=Cluster(workers="4..8")),
            machine(gpus=(A100, A100)),
            MachineError,
            "8 workers with 1 GPU each need 8 GPUs, and there are 2.",
        ),
        (
            spec(cluster=Cluster(workers=1, gpus_per_worker=1)),
            None,
            MachineError,
            "1 worker with 1 GPU needs 1 GPU, and there are none.",
        ),
        (
            spec(cluster=Cluster(workers=1, gpus_per_worker=2)),
            machine(gpus=(A100,)),
            MachineError,
            "1 worker with 2 GPUs needs 2 GPUs, and there is 1.",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_a_way_out(
    wanted: JobSpec, inventory: Inventory | None, kind: type[OrchestratorError], message: str
) -> None:
    with pytest.raises(OrchestratorError) as caught:
        plan(wanted, inventory)
    assert caught.value.message == message
    assert type(caught.value) is kind
    assert caught.value.hint or "set mesh." in message


@pytest.mark.parametrize(
    ("cluster", "gpus", "hint"),
    [
        (Cluster(workers=4), (A100, A100), "Set cluster.workers=2."),
        (Cluster(workers=1, gpus_per_worker=2), (A100,), "Set cluster.gpus_per_worker=1."),
        (Cluster(workers=2, gpus_per_worker=1), (), "Set cluster.gpus_per_worker=0 to train on CPUs."),
    ],
)
def test_gpu_shortage_names_the_smallest_change(cluster: Cluster, gpus: tuple[Gpu, ...], hint: str) -> None:
    with pytest.raises(MachineError) as caught:
        plan(spec(cluster=cluster), machine(gpus=gpus))
    assert caught.value.hint == hint


def test_several_nodes_with_what_they_need_are_planned() -> None:
    assert plan(two_nodes(), ELSEWHERE).nodes == 2
    assert plan(two_nodes(storage=Storage(path="runs", shared=True)), ELSEWHERE).nodes == 2
    assert plan(two_nodes(storage=Storage(path="/nfs/runs")), ELSEWHERE, shared_storage=True).nodes == 2
    assert plan(two_nodes(tracking=Tracking(enabled=False)), ELSEWHERE).nodes == 2


def test_gpus_are_used_where_there_are_any() -> None:
    assert plan(spec()).resources.gpus == 0
    assert plan(spec(), machine(gpus=(A100,))).resources.gpus == 1
    assert plan(spec(cluster=Cluster(gpus_per_worker=0)), machine(gpus=(A100,))).resources.gpus == 0
    assert plan(spec(cluster=Cluster(workers=2, gpus_per_worker=0.5)), machine(gpus=(A100,))).resources.gpus == 0.5


def test_overlap_and_pinning_need_gpus() -> None:
    offload = spec(strategy=Strategy(name=StrategyName.zero2_offload))
    for inventory, expected in ((machine(), False), (machine(gpus=(A100,)), True)):
        zero = plan(offload, inventory).rows[0].deepspeed["zero_optimization"]
        assert zero["overlap_comm"] is expected
        assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": expected}


def test_a_gpu_that_does_not_say_what_it_can_do_is_not_refused() -> None:
    assert plan(spec(precision=BF16), machine(gpus=(Gpu(name="new", memory=1),))).resources.gpus == 1


LIVE = Inventory(
    nodes=(
        Node(name="a", cpus=8, memory=16 << 30, gpus=(A100,) * 4, labels={"zone": "x"}),
        Node(name="b", cpus=8, memory=16 << 30, gpus=(A100,) * 4, free=Free(cpus=8, gpus=1, memory=16 << 30)),
        Node(name="c", cpus=2, memory=16 << 30),
    )
)


def live(**cluster: Any) -> JobSpec:
    return spec(cluster=Cluster(address="head:6379", **cluster), storage=SHARED, tracking=SERVER)


def test_placement_is_part_of_the_plan() -> None:
    made = plan(live(workers=4), LIVE)
    assert made.placement == (Spot(node="a", workers=4, gpu="A100"),)
    assert Plan.from_json(made.to_json()) == made
    assert plan(spec(), ELSEWHERE).placement == ()


def test_a_gang_that_has_to_wait_is_planned_with_a_note() -> None:
    made = plan(live(workers=8, nodes=2), LIVE)
    assert [spot.node for spot in made.placement] == ["a", "b"]
    assert made.notes == (
        "The workers would wait: 8 workers with 1 GPU each need 8 GPUs, and there are 5 free. "
        "At once: cluster.workers=4.",
    )


def test_only_worker_counts_that_divide_the_batch_are_named() -> None:
    with pytest.raises(MachineError) as caught:
        plan(live(workers=16, nodes=3, cpus_per_worker=1.5), LIVE)
    assert caught.value.message == "16 workers with 1 GPU each need 16 GPUs, and there are 8."
    assert caught.value.hint.splitlines()[0] == "Set cluster.workers=8."


def test_gpus_are_looked_for_where_the_labels_are() -> None:
    assert plan(live(labels={"zone": "x"}), LIVE).resources.gpus == 1
    with pytest.raises(MachineError, match="no node has the labels zone=y"):
        plan(live(labels={"zone": "y"}), LIVE)


def test_cpus_of_a_cluster_bind() -> None:
    with pytest.raises(
        MachineError, match=r"4 workers with 4.5 CPUs each need 18 CPUs, and there are 18, but so divided"
    ):
        plan(live(workers=4, cpus_per_worker=4.5, gpus_per_worker=0), LIVE)


def test_memory_is_reserved() -> None:
    assert plan(spec(cluster=Cluster(memory_per_worker="2GiB"))).resources.memory == 2 << 30
    with pytest.raises(MachineError, match="1 worker with 32 GiB of memory needs 32 GiB, and there is 16 GiB"):
        plan(spec(cluster=Cluster(memory_per_worker="32GiB")))


def test_range_leaves_out_what_the_gpus_do_not_reach() -> None:
    made = plan(spec(cluster=Cluster(workers="1..4")), machine(gpus=(A100, A100)))
    assert [row.world_size for row in made.rows] == [1, 2]
    assert made.inadmissible == {
        "3": "3 workers with 1 GPU each need 3 GPUs, and there are 2",
        "4": "4 workers with 1 GPU each need 4 GPUs, and there are 2",
    }
    assert made.preferred.world_size == 2


@pytest.mark.parametrize(
    ("wanted", "inventory", "note"),
    [
        (
            spec(cluster=Cluster(workers="1..2")),
            None,
            "The run starts with as many workers as there is room for, at most 2.",
        ),
        (spec(cluster=Cluster(workers=16)), None, "16 workers ask for 16 CPUs, and there are 8: they will share them."),
        (
            spec(precision=BF16),
            None,
            "bf16 on this CPU is 6-11 times slower than fp32 (it has neither AMX nor AVX512-BF16).",
        ),
        (
            spec(strategy=Strategy(name=StrategyName.zero3_offload)),
            None,
            "strategy=zero3_offload saves nothing without GPUs: all states are in host memory anyway.",
        ),
        (
            spec(cluster=Cluster(address="head:6379")),
            ELSEWHERE,
            "The cluster has not been asked what it holds: GPUs, CPUs and precision are unchecked.",
        ),
    ],
)
def test_what_stops_nothing_is_noted(wanted: JobSpec, inventory: Inventory | None, note: str) -> None:
    assert note in plan(wanted, inventory).notes


def test_a_plain_plan_has_no_notes() -> None:
    assert plan(spec()).notes == ()
    assert plan(spec(precision=BF16), machine(fast_bf16=True)).notes == ()
    assert plan(spec(cluster=Cluster(workers=2)), machine(gpus=(A100, A100))).notes == ()


# --- plans as data ---------------------------------------------------------------------------------------------------


def test_plan_comes_back_from_json_unchanged() -> None:
    made = plan(spec(cluster=Cluster(workers="1..6")))
    back = Plan.from_json(made.to_json())
    assert back == made
    assert back.digest == made.digest
    assert made.row(2).batch == 64
    with pytest.raises(PlanError, match=r"has no row for 3 workers.*It can run with: 1, 2, 4"):
        made.row(3)


def test_digest_is_the_same_for_equal_plans_only() -> None:
    assert plan(spec()).digest == plan(spec()).digest
    assert plan(spec(cluster=Cluster(gpus_per_worker=0))).resources == plan(spec()).resources
    digests = {plan(wanted).digest for wanted in (spec(), spec(batch=32), spec(job=job(steps=100, seed=1)))}
    assert len(digests) == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 2, "rows": [1]}'])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"^plan\.json"):
        Plan.from_json(text, "plan.json")


def test_planning_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import orchestrator.plans.make, orchestrator.cluster.nodes.inventory, orchestrator.cli.views.plan\n"
        "orchestrator.cluster.nodes.inventory.this_machine(); orchestrator.cluster.nodes.inventory.versions()\n"
        "print(sorted({'torch', 'ray', 'deepspeed', 'mlflow', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
