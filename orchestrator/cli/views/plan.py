"""A plan as people read it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.views.memory import memory_table
from orchestrator.foundation.units import show_bytes
from orchestrator.plans.types import Choice, Plan, Row

MAX_SPOTS = 8


def render(plan: Plan, console: Console) -> None:
    """Print a plan: what runs, with which numbers, where it is kept, and what to know about it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(plan):
        table.add_row(name, Text(value))
    console.print(table)
    if plan.preferred.memory:
        console.print()
        console.print(memory_table(plan.preferred.memory))
    if plan.choices:
        console.print()
        console.print(_choices(plan.choices))
    if len(plan.rows) > 1:
        console.print()
        console.print(_rows(plan.rows))
    _print_list(console, "Cannot run with", _inadmissible(plan), "yellow")
    _print_list(console, "Notes", list(plan.notes), "yellow")


def _choices(choices: tuple[Choice, ...]) -> Table:
    """What was weighed for `auto`, and why one was chosen."""
    table = Table(title="Chosen automatically", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, justify in (
        ("strategy", "left"),
        ("micro", "right"),
        ("passes", "right"),
        ("GPU", "right"),
        ("host", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("")
    for choice in choices:
        amounts = (show_bytes(choice.device) if choice.device else "", show_bytes(choice.host) if choice.host else "")
        numbers = (str(choice.micro_batch or ""), str(choice.accumulation or ""))
        style = "bold" if choice.verdict == "chosen" else None
        table.add_row(choice.strategy, *numbers, *amounts, choice.verdict, style=style)
    return table


def _print_list(console: Console, title: str, items: list[str], style: str) -> None:
    if not items:
        return
    console.print()
    console.print(Text(title, style=f"bold {style}"))
    for item in items:
        console.print(Text(f"  - {item}"))


def _lines(plan: Plan) -> list[tuple[str, str]]:
    """Name and value of each line; lines about what is left out of the config are left out as well."""
    row = plan.preferred
    lines = [
        ("Job", plan.job),
        ("Script" if plan.spec.get("script") else "Task", plan.task),
        ("Length", _length(plan.spec)),
        ("Workers", _workers(plan)),
        ("Placement", _placement(plan)),
        ("Each worker", _resources(plan)),
        ("Mesh", f"{row.mesh.data} data x {row.mesh.tensor} tensor x {row.mesh.pipeline} pipeline"),
        ("Batch", batch_equation(row)),
        ("Strategy", f"{plan.strategy}, {plan.precision}"),
        ("DeepSpeed", _deepspeed(row.deepspeed)),
        ("Optimizer", _optimizer(row.deepspeed)),
        ("Schedule", _schedule(_section(plan.spec, "schedule"))),
        ("Checkpoints", _checkpoints(plan.spec)),
        ("Storage", _text(_section(plan.spec, "storage").get("path"))),
        ("Tracking", _tracking(_section(plan.spec, "tracking"))),
        ("Seed", str(plan.seed)),
        ("Made with", ", ".join(f"{name} {version}" for name, version in sorted(plan.environment.items()))),
        ("Digest", plan.digest),
    ]
    passed_over = ("Length", "Schedule", "Checkpoints") if plan.spec.get("script") else ()
    return [(name, value) for name, value in lines if value and name not in passed_over]


def batch_equation(row: Row) -> str:
    """The batch arithmetic of a row, as `64 = 16 x 2 x 2 (...)`."""
    return (
        f"{row.batch} = {row.micro_batch} x {row.accumulation} x {row.mesh.data} (micro x accumulation x data-parallel)"
    )


def _rows(rows: tuple[Row, ...]) -> Table:
    table = Table(title="Admissible world sizes", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("workers", "mesh", "batch", "micro", "accumulation"):
        table.add_column(column, justify="right")
    for row in rows:
        mesh = f"{row.mesh.data} x {row.mesh.tensor} x {row.mesh.pipeline}"
        numbers = (row.batch, row.micro_batch, row.accumulation)
        table.add_row(str(row.world_size), mesh, *(str(number) for number in numbers))
    return table


def _inadmissible(plan: Plan) -> list[str]:
    return [
        f"{size} workers: {reason}" for size, reason in sorted(plan.inadmissible.items(), key=lambda item: int(item[0]))
    ]


def _workers(plan: Plan) -> str:
    workers = str(plan.preferred.world_size)
    if len(plan.rows) > 1:
        workers += f" (admissible: {', '.join(str(row.world_size) for row in plan.rows)})"
    cluster = _section(plan.spec, "cluster")
    address = cluster.get("address")
    where = f"{_count(plan.nodes, 'node')} of {address}" if address else "this machine"
    return f"{workers} on {where}, started by {_text(cluster.get('launcher') or 'ray')}"


def _resources(plan: Plan) -> str:
    given = plan.resources
    memory = f", {show_bytes(given.memory)} of memory" if given.memory else ""
    return f"{_count(given.cpus, 'CPU')}, {_count(given.gpus, 'GPU')}{memory}, {_count(given.threads, 'thread')}"


def _placement(plan: Plan) -> str:
    """Where the workers go, as `2 workers on node-a (H100), 2 on node-b`."""
    spots = plan.placement
    parts = [f"{spot.workers} on {spot.node}{f' ({spot.gpu})' if spot.gpu else ''}" for spot in spots[:MAX_SPOTS]]
    if not parts:
        return ""
    first = f"{_count(spots[0].workers, 'worker')} on {parts[0].partition(' on ')[2]}"
    more = [f"and on {len(spots) - MAX_SPOTS} more nodes"] if len(spots) > MAX_SPOTS else []
    return ", ".join([first, *parts[1:], *more])


def _length(spec: dict[str, Any]) -> str:
    job = _section(spec, "job")
    for unit in ("steps", "epochs"):
        if job.get(unit) is not None:
            return f"{job[unit]:g} {unit}"
    return ""


def _deepspeed(config: dict[str, Any]) -> str:
    zero = config["zero_optimization"]
    parts = [f"ZeRO {zero['stage']}" if zero["stage"] else "data parallel (ZeRO 0)"]
    for key in ("offload_optimizer", "offload_param"):
        if key in zero:
            parts.append(f"{key.replace('offload_', '')} offloaded to {zero[key].get('device', 'none')}")
    if zero.get("overlap_comm"):
        parts.append("communication overlapped")
    if "reduce_bucket_size" in zero:
        parts.append(f"reduce bucket {zero['reduce_bucket_size']:,}")
    if config["gradient_clipping"]:
        parts.append(f"clipping at {config['gradient_clipping']:g}")
    return ", ".join(parts)


def _optimizer(config: dict[str, Any]) -> str:
    optimizer = config["optimizer"]
    shown = {key: value for key, value in optimizer["params"].items() if key not in ("torch_adam", "adam_w_mode")}
    return f"{optimizer['type']} " + ", ".join(f"{key}={value}" for key, value in shown.items())


def _schedule(schedule: dict[str, Any]) -> str:
    if not schedule:
        return ""
    name = _text(schedule.get("name") or "constant")
    warmup = ""
    if schedule.get("warmup_steps"):
        warmup = f" after {schedule['warmup_steps']} steps of warmup"
    elif schedule.get("warmup_fraction"):
        warmup = f" after warmup over {schedule['warmup_fraction']:.0%} of the steps"
    end = f", down to {schedule.get('final') or 0:g} of the peak" if name != "constant" else ""
    return name + warmup + end


def _checkpoints(spec: dict[str, Any]) -> str:
    checkpoint = _section(spec, "checkpoint")
    if not checkpoint:
        return ""
    every = [_interval(count, unit) for unit, count in (checkpoint.get("every") or {}).items() if count]
    parts = [" and ".join([*every, "at the end"]), f"the newest {checkpoint.get('keep')} kept"]
    if checkpoint.get("best"):
        monitor = _section(spec, "job").get("monitor") or {}
        parts.append(f"and the best ({_text(monitor.get('mode') or 'min')} {monitor.get('metric') or 'loss'})")
    return ", ".join(parts)


def _interval(count: int, unit: str) -> str:
    return f"every {unit.removesuffix('s')}" if count == 1 else f"every {count} {unit}"


def _tracking(tracking: dict[str, Any]) -> str:
    if not tracking:
        return ""
    if not tracking.get("enabled", True):
        return "off (run storage keeps everything)"
    return f"MLflow at {tracking.get('uri') or 'SQLite in the storage folder'}"


def _section(spec: dict[str, Any], name: str) -> dict[str, Any]:
    value = spec.get(name)
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A value as it is written in a config: enums by their name."""
    return str(getattr(value, "value", value) or "")


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
