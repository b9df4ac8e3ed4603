"""From a JobSpec and an inventory to a Plan, refusing what cannot run with the reason and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.config.schema import AUTO, JobSpec, LauncherName, PrecisionName, StrategyName
from orchestrator.errors import MachineError, PlanError
from orchestrator.foundation import formats, units
from orchestrator.plans import batch, schedule
from orchestrator.plans.deepspeed import ds_config, user_settings
from orchestrator.plans.memory import budget
from orchestrator.plans.memory.profile_types import ModelProfile
from orchestrator.plans.placement import fit
from orchestrator.plans.placement.inventory import Inventory
from orchestrator.plans.types import Plan, Row, WorkerResources

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which GPUs compute bf16."""


def make(
    resolved: dict[str, Any],
    spec: JobSpec,
    inventory: Inventory,
    *,
    environment: dict[str, str],
    shared_storage: bool,
    project: Path | None = None,
    tracking_uri: str | None = None,
    profile: ModelProfile | None = None,
) -> Plan:
    """Decide exactly what will run.

    `resolved` is `spec` as plain data, kept in the plan; `environment` the package versions; `shared_storage` whether
    every node sees the storage path; `project` the folder that `strategy.deepspeed_file` is relative to;
    `tracking_uri` the store that tracking.uri=null stands for, when it is not the embedded one; `profile` the model's
    sizes, without which the plan says nothing about memory (budget.with_memory adds it later).
    """
    check(spec, shared_storage=shared_storage, tracking_uri=tracking_uri)
    _check_explicit(spec)
    usable = fit.usable(spec, inventory)
    resources = _resources(spec, usable)
    _check_precision(spec, usable, resources)
    _check_nvme(spec, usable)
    arrangements = batch.arrange(spec, fit.beyond(spec, inventory, resources))
    largest = arrangements.admissible[-1].mesh.world_size
    placed = fit.require_place(spec, inventory, resources, largest)
    rows, changes = _rows(spec, arrangements, _own_settings(spec, project), on_gpu=resources.gpus > 0)
    plan = Plan(
        format=formats.FORMAT,
        job=spec.job.name,
        task=spec.script or spec.job.task,
        strategy=spec.strategy.name.value,
        precision=spec.precision.name.value,
        seed=spec.job.seed,
        rows=rows,
        inadmissible={str(world): reason for world, reason in arrangements.inadmissible.items()},
        resources=resources,
        nodes=spec.cluster.nodes,
        notes=tuple(
            filter(None, (*_notes(spec, usable, resources, arrangements), fit.waiting(spec, placed), *changes))
        ),
        environment=dict(environment),
        spec=resolved,
        placement=placed.spots if placed else (),
    )
    return budget.with_memory(plan, spec, profile, inventory) if profile else plan


def _rows(
    spec: JobSpec, arrangements: batch.Arrangements, own: list[user_settings.Settings], *, on_gpu: bool
) -> tuple[tuple[Row, ...], list[str]]:
    """One row per world size, and what the person's own DeepSpeed settings change in them."""
    rows: list[Row] = []
    notes: dict[str, None] = {}
    for arrangement in arrangements.admissible:
        config = ds_config.config(spec, arrangement, on_gpu=on_gpu)
        for settings in own:
            config, changes = user_settings.merge(config, settings)
            notes |= dict.fromkeys(changes)
        row = Row(
            world_size=arrangement.mesh.world_size,
            mesh=arrangement.mesh,
            batch=arrangement.batch,
            micro_batch=arrangement.micro_batch,
            accumulation=arrangement.accumulation,
            deepspeed=config,
        )
        rows.append(row)
    return tuple(rows), list(notes)


def _own_settings(spec: JobSpec, project: Path | None) -> list[user_settings.Settings]:
    """The person's DeepSpeed settings, in the order they are laid on top of each other."""
    own = []
    if spec.strategy.deepspeed_file is not None:
        shown = spec.strategy.deepspeed_file
        own.append(user_settings.read_file((project or Path()) / Path(shown).expanduser(), shown))
    if spec.strategy.deepspeed:
        own.append(user_settings.Settings("strategy.deepspeed", spec.strategy.deepspeed))
    return own


def _resources(spec: JobSpec, inventory: Inventory) -> WorkerResources:
    cluster = spec.cluster
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = 1 if inventory.gpus else 0
    # Floats, because 1 and 1.0 are not the same in JSON and would give equal plans different digests.
    return WorkerResources(
        cpus=float(cluster.cpus_per_worker),
        gpus=float(gpus),
        threads=cluster.threads_per_worker,
        memory=units.optional_bytes("cluster.memory_per_worker", cluster.memory_per_worker) or 0,
    )


# --- checks of the config --------------------------------------------------------------------------------------------


def check(spec: JobSpec, *, shared_storage: bool, tracking_uri: str | None = None) -> None:
    """Refuse what the config alone shows to be wrong, so that no cluster has to be asked first."""
    _check_length(spec)
    _check_mesh(spec)
    _check_nvme_path(spec)
    _check_launcher(spec)
    _check_nodes(spec, shared_storage=shared_storage, tracking_uri=spec.tracking.uri or tracking_uri)
    _check_tracking(spec, tracking_uri)


def _check_length(spec: JobSpec) -> None:
    epochs, steps = spec.job.epochs, spec.job.steps
    if spec.script is not None:  # it knows how long it trains
        return
    if epochs is None and steps is None:
        raise PlanError("Nothing says how long to train: job.epochs and job.steps are both null.", "Set job.epochs=1.")
    if epochs is not None and steps is not None:
        raise PlanError(
            f"job.epochs={epochs:g} and job.steps={steps} both say how long to train.",
            "Set one of them to null (job.epochs=null).",
        )
    if steps is not None:
        schedule.check(spec.schedule, steps)


def _check_explicit(spec: JobSpec) -> None:
    """What is left to choose is chosen by plans.memory.auto, which plans each candidate here."""
    if spec.script is not None and AUTO in (spec.strategy.name.value, spec.micro_batch):
        raise PlanError(f"strategy=auto and micro_batch=auto need a Task; script={spec.script} is none.", "Name one.")
    for key, value in (("strategy", spec.strategy.name.value), ("micro_batch", spec.micro_batch)):
        if value == AUTO:
            raise PlanError(f"{key}=auto needs the model's memory, which is not known here.", f"Name one ({key}=...).")


def _check_mesh(spec: JobSpec) -> None:
    tensor, pipeline, strategy = spec.mesh.tensor, spec.mesh.pipeline, spec.strategy.name
    if pipeline != 1:
        raise PlanError(
            f"mesh.pipeline={pipeline} is not supported yet.",
            "Set mesh.pipeline=1; to spread one model over workers, mesh.tensor=2.",
        )
    if tensor != 1 and strategy not in (*ds_config.SHARES_LAYERS, StrategyName.auto):
        fitting = ", ".join(f"strategy={name.value}" for name in ds_config.SHARES_LAYERS)
        raise PlanError(
            f"mesh.tensor={tensor} does not go together with strategy={strategy.value}.",
            f"It does with {fitting}. Or set mesh.tensor=1.",
        )
    if tensor != 1 and strategy is StrategyName.ddp and spec.precision.name is not PrecisionName.fp32:
        raise PlanError(
            f"mesh.tensor={tensor} with strategy=ddp needs precision=fp32: in {spec.precision.name.value}, DeepSpeed "
            "takes each worker's part of the gradient for the whole when it clips.",
            "Set strategy=zero1.",
        )


def _check_nvme_path(spec: JobSpec) -> None:
    path = spec.strategy.nvme_path
    if spec.strategy.name is StrategyName.zero3_nvme and (not path or paths.is_url(path)):
        raise PlanError(
            f"strategy=zero3_nvme keeps optimizer states in a folder on a disk of each node, but "
            f"strategy.nvme_path={path or 'null'}.",
            "Set strategy.nvme_path=/local_nvme, or strategy=zero3_offload.",
        )


def _check_launcher(spec: JobSpec) -> None:
    if spec.cluster.launcher is not LauncherName.torchrun:
        return
    if spec.cluster.address is not None:
        raise PlanError(
            f"cluster.launcher=torchrun starts processes on this machine, but cluster.address={spec.cluster.address} "
            "names a Ray cluster.",
            "Set cluster.launcher=ray, or cluster.address=null.",
        )
    if spec.cluster.nodes > 1:
        raise PlanError(
            f"cluster.launcher=torchrun runs on one host, but cluster.nodes={spec.cluster.nodes}.",
            "Set cluster.launcher=ray, or cluster.nodes=1.",
        )


def _check_nodes(spec: JobSpec, *, shared_storage: bool, tracking_uri: str | None) -> None:
    nodes = spec.cluster.nodes
    if nodes == 1:
        return
    if not (shared_storage or spec.storage.shared or paths.is_url(spec.storage.path)):
        raise PlanError(
            f"cluster.nodes={nodes} needs storage that every node sees, but storage.path={spec.storage.path} lies on "
            "this host's own disk: checkpoints of workers elsewhere would be lost.",
            "Set storage.path to a shared folder or a URL (s3://bucket/runs); if it is shared, storage.shared=true.",
        )
    if spec.tracking.enabled and (tracking_uri is None or tracking_uri.startswith("sqlite:")):
        where = f"tracking.uri={tracking_uri or 'null'}"
        raise PlanError(
            f"cluster.nodes={nodes} needs a tracking server: {where} is a SQLite file that only this host can write.",
            "Set tracking.uri=http://host:5000 (mlflow server), or tracking.enabled=false.",
        )
    if spec.cluster.address is None:
        raise PlanError(
            f"cluster.nodes={nodes} needs a running Ray cluster: cluster.address=null starts one on this host only.",
            "Set cluster.address=host:6379, or cluster.nodes=1.",
        )


def _check_tracking(spec: JobSpec, tracking_uri: str | None) -> None:
    if spec.tracking.enabled and paths.is_url(spec.storage.path) and not (spec.tracking.uri or tracking_uri):
        raise PlanError(
            f"storage.path={spec.storage.path} is a URL, and MLflow's SQLite file can only lie in a folder.",
            "Set tracking.uri=http://host:5000 (mlflow server), or train without it (tracking=off).",
        )


# --- checks against the machine --------------------------------------------------------------------------------------


def _check_precision(spec: JobSpec, inventory: Inventory, resources: WorkerResources) -> None:
    precision = spec.precision.name
    if precision is PrecisionName.fp16 and resources.gpus == 0:
        hint = "Set precision=fp32 or precision=bf16."
        if spec.cluster.gpus_per_worker is None and inventory.known:
            raise MachineError("precision=fp16 needs GPUs, and there are none.", hint)
        given = "null on a cluster that was not asked" if spec.cluster.gpus_per_worker is None else "0"
        raise PlanError(
            f"precision=fp16 needs GPUs, but cluster.gpus_per_worker={given}.",
            f"{hint} Or set cluster.gpus_per_worker=1.",
        )
    if precision is PrecisionName.bf16 and resources.gpus > 0:
        for gpu in inventory.gpus:
            # (0, 0): a GPU that did not say what it can do.
            if (0, 0) < gpu.capability < BF16_CAPABILITY:
                major, minor = gpu.capability
                raise MachineError(
                    f"precision=bf16 needs GPUs of compute capability 8.0, but {gpu.name} has {major}.{minor}.",
                    "Set precision=fp16 or precision=fp32.",
                )


def _check_nvme(spec: JobSpec, inventory: Inventory) -> None:
    if spec.strategy.name is not StrategyName.zero3_nvme:
        return
    for node in inventory.nodes:
        if node.nvme_lacks:
            raise MachineError(
                f"strategy=zero3_nvme cannot run on {node.name}: {', '.join(node.nvme_lacks)} missing there, with "
                "which DeepSpeed compiles its way to the disk.",
                "Install them (apt install libaio-dev g++; pip install ninja), or set strategy=zero3_offload.",
            )


# --- notes -----------------------------------------------------------------------------------------------------------


def _notes(
    spec: JobSpec, inventory: Inventory, resources: WorkerResources, arrangements: batch.Arrangements
) -> list[str]:
    """What the person should know, but what stops nothing."""
    notes = []
    largest = arrangements.admissible[-1].mesh.world_size
    if len(arrangements.admissible) > 1:
        notes.append(f"The run starts with as many workers as there is room for, at most {largest}.")
    if spec.script is not None:
        notes.append(f"What memory {spec.script} takes is not known: nothing but the script itself knows its model.")
    if not inventory.known:
        why = f" ({inventory.note})" if inventory.note else ""
        notes.append(f"The cluster has not been asked what it holds{why}: GPUs, CPUs and precision are unchecked.")
        if spec.cluster.gpus_per_worker is None:
            notes.append("Planned without GPUs; if the cluster has some, set cluster.gpus_per_worker=1.")
        return notes
    cpus = largest * resources.cpus
    if cpus > inventory.cpus:
        notes.append(
            f"{largest} workers ask for {cpus:g} CPUs, and there are {inventory.cpus:g}: they will share them."
        )
    if spec.precision.name is PrecisionName.bf16 and resources.gpus == 0:
        slow = [node.name for node in inventory.nodes if node.fast_bf16 is False]
        if slow:
            notes.append("bf16 on this CPU is 6-11 times slower than fp32 (it has neither AMX nor AVX512-BF16).")
    if spec.strategy.name is StrategyName.zero3_nvme:
        notes.append("The first run on a node compiles DeepSpeed's way to the disk, which takes minutes.")
        if spec.checkpoint.asynchronous:
            notes.append("Saving brings the states on disk into host memory; checkpoint.asynchronous=false does not.")
    elif spec.strategy.name in ds_config.OFFLOADS_OPTIMIZER and resources.gpus == 0:
        notes.append(
            f"strategy={spec.strategy.name.value} saves nothing without GPUs: all states are in host memory anyway."
        )
    return notes
