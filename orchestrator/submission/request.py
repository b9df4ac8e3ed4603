"""From a command line, or a call, to a job that is handed in: the steps that `submit`, `rerun` and the API share."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import paths
from orchestrator.config.request import ConfigArgs
from orchestrator.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from orchestrator.cluster.node.home import Record
    from orchestrator.plans.types import Plan
    from orchestrator.project.pack import Package
    from orchestrator.records.jobs import JobRecord
    from orchestrator.submission.enqueue import Handed

PLANNING = ".planning"


def hand_in(config: ConfigArgs, plan_file: str | None, run_id: str | None, upload_limit: str) -> Handed:
    """Plan a job, unless this very request was planned before, and hand it in."""
    from orchestrator.records import jobs, runs
    from orchestrator.submission import enqueue

    cluster = enqueue.cluster_here()
    if run_id is None:
        return _plan_and_hand_in(config, plan_file, None, upload_limit, cluster)
    runs.check_id(run_id)
    # Of many that ask for the same at the same time, one makes the plan.
    with jobs.locked(f"{run_id}{PLANNING}"):
        known = _hand_in_known(config, plan_file, run_id, upload_limit, cluster)
        return known or _plan_and_hand_in(config, plan_file, run_id, upload_limit, cluster)


def _hand_in_known(
    config: ConfigArgs, plan_file: str | None, run_id: str, upload_limit: str, cluster: Record
) -> Handed | None:
    """Complete what the same request has begun, without planning anew; None: there is nothing."""
    from orchestrator.records import jobs
    from orchestrator.submission import enqueue

    root = jobs.roots_here().get(run_id)
    if root is None:
        return None
    packed = pack(root.rpartition("/")[0], upload_limit)
    job = enqueue.known(run_id, root, request_of(config, plan_file), packed.digest)
    return enqueue.hand_in(job, job.plan, packed.store, cluster) if job else None


def _plan_and_hand_in(
    config: ConfigArgs, plan_file: str | None, run_id: str | None, upload_limit: str, cluster: Record
) -> Handed:
    from orchestrator.project import unpack
    from orchestrator.records import runs
    from orchestrator.submission import enqueue

    unpack.add_packages(paths.project_dir(), lambda text: click.echo(text, err=True))
    plan = _read_plan(config, plan_file) if plan_file else _make_plan(config)
    check_cluster(plan, cluster)
    storage = storage_of(plan)
    packed = pack(storage, upload_limit)
    run_id = run_id or runs.new_id(plan.job)
    root = f"{storage}/{run_id}"
    job = enqueue.draft(plan, run_id, root, packed, request_of(config, plan_file), prepares=_prepares(plan))
    return enqueue.hand_in(job, plan, packed.store, cluster)


def rerun(run: str, storage: str | None, run_id: str | None, upload_limit: str) -> Handed:
    """Hand in once more what a run was: its plan, and of a job also its project as it was sent."""
    from orchestrator.records import finder, runs
    from orchestrator.submission import enqueue

    found = finder.find(run, storage)
    if found.run is None and found.job is None:
        raise ConfigError(f"There is nothing of {found.id} to do once more.")
    if run_id is not None:
        runs.check_id(run_id)
    cluster = enqueue.cluster_here()
    earlier = found.job
    if earlier and earlier.sweep:
        raise ConfigError(
            f"{found.id} is a sweep.",
            f"The same once more: orchestrator sweep --submit --name NAME {shlex.join(earlier.asked)}",
        )
    plan = earlier.plan if earlier else found.run.plan  # type: ignore[union-attr]
    check_cluster(plan, cluster)
    run_id = run_id or runs.new_id(plan.job)
    root, asked = f"{found.storage}/{run_id}", ("rerun", found.id)
    if earlier is None:
        packed = pack(found.storage, upload_limit)
        job = enqueue.draft(plan, run_id, root, packed, asked)
        return enqueue.hand_in(job, plan, packed.store, cluster)
    return enqueue.hand_in(_again(earlier, run_id, root, asked), plan, lambda storage: None, cluster)


def _again(earlier: JobRecord, run_id: str, root: str, asked: tuple[str, ...]) -> JobRecord:
    import time

    return dataclasses.replace(earlier, id=run_id, root=root, asked=asked, created=time.time(), submissions=())


def _prepares(plan: Plan) -> bool:
    """Cheap here, where the person's code is imported already, and dear in the job's own process."""
    from orchestrator.config.load import spec_from_dict
    from orchestrator.runtime.driver import preparing

    return preparing.request_for(plan.spec, spec_from_dict(plan.spec), str(paths.project_dir())) is not None


def _import_ahead() -> None:
    """Begin to import what checks of a person's code need, while the cluster is asked what it has."""
    if importlib.util.find_spec("torch"):
        threading.Thread(target=importlib.import_module, args=("torch",), daemon=True).start()


def request_of(config: ConfigArgs, plan_file: str | None) -> tuple[str, ...]:
    """What was asked for, in words that mean the same next time."""
    if plan_file:
        from orchestrator.planning.plan_file import read_plan

        return ("--plan", read_plan(plan_file).digest)
    words = list(config.overrides)
    words += [f"--config-dir={config.config_dir}"] if config.config_dir else []
    words += [f"--config-name={config.config_name}"] if config.config_name != "config" else []
    return tuple(words)


def _read_plan(config: ConfigArgs, plan_file: str) -> Plan:
    from orchestrator.planning import planner
    from orchestrator.planning.plan_file import read_plan, refuse_config

    refuse_config(config, plan_file)
    return planner.check_targets(read_plan(plan_file))


def _make_plan(config: ConfigArgs) -> Plan:
    from orchestrator.planning import planner

    _import_ahead()
    return planner.make_plan(for_cluster(config))


def for_cluster(config: ConfigArgs) -> ConfigArgs:
    """The same for the cluster that takes it, unless it says itself where it is to run."""
    if any(word.startswith("cluster=") for word in config.overrides):
        return config
    return dataclasses.replace(config, overrides=("cluster=existing", *config.overrides))


def check_cluster(plan: Plan, cluster: Record) -> None:
    """A job runs on the cluster that takes it."""
    address, launcher = plan.spec["cluster"]["address"], plan.spec["cluster"]["launcher"]
    if address in ("auto", cluster.ray) and launcher == "ray":
        return
    what = f"cluster.address={address}" if launcher == "ray" else f"cluster.launcher={launcher}"
    raise PlanError(
        f"{what} does not mean the cluster {cluster.name}, which takes this job.",
        "Plan it with cluster=existing; what is to run in this terminal is run by: orchestrator train",
    )


def storage_of(plan: Plan) -> str:
    """Where the run will lie, writable."""
    from orchestrator.foundation.storage import open_store

    storage = paths.absolute(plan.spec["storage"]["path"])
    open_store(storage).check_writable()
    return storage


def pack(storage: str, upload_limit: str) -> Package:
    """The project of this command; links that are not sent are named on stderr."""
    from orchestrator.foundation import units
    from orchestrator.project import pack as package

    if packed := os.environ.get(paths.PACKED):
        return package.received(Path(packed), paths.project_dir())
    limit = units.optional_bytes("--upload-limit", upload_limit)
    made = package.pack(paths.project_dir(), limit or 0, storage)
    if made.links:
        click.echo(package.links_note(made.links), err=True)
    return made
