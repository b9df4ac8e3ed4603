"""From `orchestrator sweep --submit` to a sweep that is handed in, and watched from here."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import paths
from orchestrator.cli.options import ConfigArgs
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.records.finder import Subject
    from orchestrator.records.jobs import JobRecord
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


def hand_in_again(job: JobRecord) -> Handed:
    """Have a cluster go on with a sweep."""
    from orchestrator.submission import enqueue

    return enqueue.hand_in_again(job, enqueue.cluster_here())


def show(handed: Handed, *, as_json: bool, wait: bool) -> int:
    """Say what came of it, or follow it to its end; the exit code."""
    from orchestrator.cli.verbs import submit
    from orchestrator.records.finder import Subject

    job = handed.job
    if wait:
        return watch(Subject(job.id, job.root), as_json=as_json)
    code = submit.show(handed, as_json=as_json, wait=False)
    if not as_json:
        click.echo(f"      orchestrator sweep show {job.id}{_storage_flag(job)}")
    return code


def _storage_flag(job: JobRecord) -> str:
    from orchestrator.sweeps.record import load

    return load(job.storage, job.id).storage_flag


def watch(found: Subject, *, as_json: bool = False) -> int:
    """Show how a sweep stands until its sitting is over; the exit code of the sitting, or of a person who left."""
    from orchestrator.cli import follow
    from orchestrator.cli.verbs import attach
    from orchestrator.cli.views.sweep import as_data, make_view, summary
    from orchestrator.records.status import Standing
    from orchestrator.sweeps import record
    from orchestrator.sweeps.report.report import Report

    view, known = make_view(sys.stderr), record.load(found.storage, found.id)

    def look(now: Standing) -> None:
        view.show(Report(record=known, book=known.book()))

    try:
        end = follow.follow(found, look, follow.command("attach", found))
    finally:
        view.close()
    if end is None:
        return follow.DETACHED
    for line in [f"{found.id} {end.state.value}: {end.note}"] if end.note else []:
        click.echo(line, err=True)
    report = Report(record=known, book=known.book())
    click.echo(json.dumps(as_data(report), indent=2) if as_json else summary(report))
    return attach.exit_code(found.fresh(), end)
