"""From `orchestrator sweep --submit` to a sweep that is handed in, and watched from here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import paths
from orchestrator.config.request import ConfigArgs
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.submission.enqueue import Handed
    from orchestrator.sweeps.definition import Definition


def hand_in(config: ConfigArgs, name: str | None, upload_limit: str) -> Handed:
    """Check a sweep's trials and hand it in, or complete what an earlier try has left undone."""
    from orchestrator.project import unpack
    from orchestrator.records import runs
    from orchestrator.submission import enqueue, request
    from orchestrator.sweeps import record as records
    from orchestrator.sweeps.trials import Planner

    cluster = enqueue.cluster_here()
    unpack.add_packages(paths.project_dir(), lambda text: click.echo(text, err=True))
    definition = _defined(config)
    plan = Planner(definition).check_all()[0][1]
    request.check_cluster(plan, cluster)
    storage = request.storage_of(plan)
    packed = request.pack(storage, upload_limit)
    name = name or runs.new_id(f"{plan.job}-sweep")
    drafted = enqueue.draft(plan, name, f"{storage}/{name}", packed, request.request_of(config, None), prepares=False)
    job = dataclasses.replace(drafted, sweep=True, plan_digest=f"{definition.digest}-{definition.trials}")

    def keep(storage: str) -> None:
        records.create(definition, name, plan.resources.gpus, plan.preferred.world_size)
        packed.store(storage)

    return enqueue.hand_in(job, plan, keep, cluster)


def _defined(config: ConfigArgs) -> Definition:
    """The sweep in words that mean the same on the head, in the project as it is sent."""
    from orchestrator.submission import request
    from orchestrator.sweeps.definition import define
    from orchestrator.sweeps.space.space import as_override

    words, config_dir = request.for_cluster(config).overrides, _within_project(config.config_dir)
    definition = define(words, config.config_name, config_dir)
    storage = definition.spec.storage.path
    if paths.is_url(storage) or Path(storage).is_absolute():
        return definition
    return define((*words, as_override("storage.path", paths.absolute(storage))), config.config_name, config_dir)


def _within_project(config_dir: str | None) -> str | None:
    if config_dir is None:
        return None
    folder, project = Path(config_dir).resolve(), paths.project_dir().resolve()
    if not folder.is_relative_to(project):
        raise ConfigError(
            f"--config-dir={config_dir} is not in the project, which is all that is sent.", "Put it there, as conf/."
        )
    return str(folder.relative_to(project))
