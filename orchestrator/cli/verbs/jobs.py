"""`orchestrator jobs`: what was submitted, where each job stands, and all about one of them."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import follow
from orchestrator.cli.follow_run import driver_line
from orchestrator.cli.options import as_json_option, cluster_option, run_argument, storage_option, traceback_option
from orchestrator.cli.views.progress import milestone
from orchestrator.cli.views.runs import RunReport, ago, table, workers

if TYPE_CHECKING:
    from orchestrator.records.events import Event
    from orchestrator.records.finder import Subject
    from orchestrator.records.status import Standing

STATES = ("queued", "waiting", "starting", "running", "stopping", "finished", "failed", "stopped", "lost")
WATCH_S = 2.0
TURNS, STEPS = 10, 4
"""So many events that changed where a job stands are shown, and so many of those that come with training."""
NOTE_WIDTH = 60


@click.group(invoke_without_command=True)
@cluster_option
@storage_option
@as_json_option
@click.option("--watch", "-w", is_flag=True, help="Show the table anew as things change, until Ctrl-C.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Newest so many.")
@click.option("--state", type=click.Choice(STATES), help="Only those that stand so.")
@traceback_option
@click.pass_context
def jobs(
    context: click.Context,
    cluster_file: str | None,
    storage: str | None,
    as_json: bool,
    watch: bool,
    limit: int,
    state: str | None,
) -> None:
    """List jobs that were submitted, newest first; look into one of them.

    \b
    orchestrator jobs --watch
    orchestrator jobs show last

    Without --storage: those submitted on this machine. It works as well when their cluster is gone.
    """
    follow.on_the_head(cluster_file)
    if context.invoked_subcommand:
        return
    if watch and as_json:
        raise click.UsageError("--watch shows a table, and --json is for programs: leave out one of the two.", context)
    if watch:
        _watch(storage, limit, state)
        return
    found = _all(storage, limit, state)
    if as_json:
        follow.echo_json([_summary(subject, now) for subject, now in found])
    else:
        click.echo(_table(found) if found else _nothing(storage, state))


@jobs.command()
@run_argument
@cluster_option
@storage_option
@as_json_option
@traceback_option
@click.pass_context
def show(context: click.Context, run: str, cluster_file: str | None, storage: str | None, as_json: bool) -> None:
    """Tell all about one job: where it stands, why it failed, plan, attempts, where it runs, what happened.

    RUN is an id, a unique beginning of one, or `last`; runs that were not submitted are shown too.
    """
    follow.on_the_head(cluster_file)
    given = context.parent.params if context.parent else {}
    found = follow.find(run, storage or given.get("storage"))
    now = follow.standing(found)
    if as_json or given.get("as_json"):
        follow.echo_json(_details(found, now))
        return
    for title, lines in _sections(found, now):
        if lines:
            click.echo(click.style(title, bold=True) if title else "", nl=bool(title))
            click.echo("\n".join(lines))


# --- the list --------------------------------------------------------------------------------------------------------
def _all(storage: str | None, limit: int, state: str | None) -> list[tuple[Subject, Standing]]:
    from orchestrator.records import jobs as record
    from orchestrator.records.finder import Subject

    subjects = [Subject(job.id, job.root) for job in reversed(record.jobs(storage))]
    if state is None:
        subjects = subjects[:limit]
    found = [(subject, now) for subject in subjects if (now := _standing(subject))]
    return [(subject, now) for subject, now in found if state in (None, now.state.value)][:limit]


def _standing(subject: Subject) -> Standing | None:
    """Where a job stands; one that cannot be read is told of, and hides no other."""
    from orchestrator.errors import FormatError, StorageError

    try:
        return follow.standing(subject)
    except (FormatError, StorageError) as error:
        click.echo(f"{subject.id} is left out: {error.message}", err=True)
        return None


def _summary(subject: Subject, now: Standing) -> dict[str, Any]:
    job = subject.job
    return {
        "id": subject.id,
        "job": job.job if job else "",
        **now.to_dict(),
        "created": job.created if job else None,
        "cluster": job.cluster if job else "",
        "folder": subject.root,
    }


def _table(found: list[tuple[Subject, Standing]]) -> str:
    rows = [["id", "job", "state", "since", "attempt", "step", "nodes", "note"]]
    for subject, now in found:
        rows.append(
            [
                subject.id,
                subject.job.job if subject.job else "",
                now.state.value,
                ago(time.time() - now.since),
                str(now.attempt or ""),
                "" if now.step is None else str(now.step),
                ", ".join(dict.fromkeys(now.nodes.values())),
                now.note if len(now.note) <= NOTE_WIDTH else f"{now.note[: NOTE_WIDTH - 3]}...",
            ]
        )
    return table(rows, head=True)


def _nothing(storage: str | None, state: str | None) -> str:
    where = f"in {storage}" if storage else "on this machine"
    what = f"No job {where} is {state}." if state else f"Nothing was submitted {where} yet."
    return what if state else f"{what} Submit a job with: orchestrator submit job=digits"


def _watch(storage: str | None, limit: int, state: str | None) -> None:
    try:
        while True:
            found = _all(storage, limit, state)
            click.clear()
            click.echo(_table(found) if found else _nothing(storage, state))
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        click.echo("\nDetached: the jobs go on without you.", err=True)


# --- one job ---------------------------------------------------------------------------------------------------------
def _sections(found: Subject, now: Standing) -> list[tuple[str, list[str]]]:
    report = RunReport(found.run) if found.run else None
    return [
        ("failed", [f"  {line}" for line in follow.failure_lines(found)]),
        ("", _facts(found, now)),
        ("waits for", _waits_for(found, now)),
        ("where", [f"  rank {rank:<4} {node}" for rank, node in now.nodes.items()]),
        ("attempts", report.attempt_lines() if report else []),
        ("events", [f"  {line}" for line in event_lines(found.events)]),
        ("files", report.place_lines() if report else []),
        ("next", [f"  {line}" for line in _next(found, now)]),
    ]


def _facts(found: Subject, now: Standing) -> list[str]:
    plan, job = _plan(found), found.job
    row = plan.preferred if plan else None
    facts = {
        "job": found.id,
        "state": f"{now.state.value}, since {clock(now.since)} ({ago(time.time() - now.since)} ago)",
        "note": now.note,
        "step": "" if now.step is None else str(now.step),
        "plan": f"{plan.job}, {plan.strategy}, {plan.precision}, {workers(row.world_size)}" if plan and row else "",
        "digest": plan.digest if plan else "",
        "asked": " ".join(job.asked) if job else "",
        "submitted": f"{clock(job.created)} from {job.latest.host} to {job.cluster}" if job and job.latest else "",
    }
    return [f"{name:<11} {value}" for name, value in facts.items() if value]


def _waits_for(found: Subject, now: Standing) -> list[str]:
    from orchestrator.records.why import explain

    if now.state.value != "waiting":
        return []
    return [f"  {line}" for line in explain(found, now).lines()[1:]]


def _next(found: Subject, now: Standing) -> list[str]:
    if now.is_over:
        verb = [] if now.state.value == "finished" else [follow.command("resume", found)]
        return [*verb, follow.command("logs", found), follow.command("runs show", found)]
    why = [follow.command("why", found)] if now.state.value in ("queued", "waiting") else []
    return [*why, follow.command("logs", found, " -f"), follow.command("attach", found)]


def _plan(found: Subject) -> Any:
    from orchestrator import paths
    from orchestrator.errors import OrchestratorError
    from orchestrator.plans.types import Plan

    try:
        return Plan.from_json(found.store.read(paths.PLAN), f"{found.root}/{paths.PLAN}")
    except (OSError, OrchestratorError):
        return None


def event_lines(told: list[Event]) -> list[str]:
    """What happened last, a line each, without the numbers of every step."""
    texts = [(event, driver_line(event) or milestone(event) or _other_line(event)) for event in told]
    steps = [event for event, text in texts if text and event.kind in ("evaluated", "checkpoint")]
    turns = [event for event, text in texts if text and event.kind not in ("evaluated", "checkpoint")]
    shown = {id(event) for event in (*turns[-TURNS:], *steps[-STEPS:])}
    return [f"{clock(event.time)}  {text}" for event, text in texts if id(event) in shown]


def _other_line(event: Event) -> str:
    if event.kind == "checkpoint":
        return f"step {event.step}  saved as {event.data['name']}"
    if event.kind == "finished":
        return f"step {event.step}  training ended: {event.data['reason']}"
    return ""


def _details(found: Subject, now: Standing) -> dict[str, Any]:
    from orchestrator.records.failure_report import first_failure
    from orchestrator.records.why import explain

    plan = _plan(found)
    failure = first_failure(found.run) if found.run else None
    return {
        **_summary(found, now),
        "failure": failure.to_dict() if failure else None,
        "waiting": dict(explain(found, now).waiting),
        "submission": found.job.to_dict() if found.job else None,
        "run": found.run.to_dict() if found.run else None,
        "plan": plan.to_dict() if plan else None,
        "events": [
            {"kind": event.kind, "time": event.time, "attempt": event.attempt, "step": event.step, **event.data}
            for event in found.events
        ],
        "next": _next(found, now),
    }


def clock(moment: float) -> str:
    """A time as people read it; the day too, if it is not today."""
    when = datetime.datetime.fromtimestamp(moment)
    return f"{when:%H:%M:%S}" if when.date() == datetime.date.today() else f"{when:%Y-%m-%d %H:%M:%S}"
