"""The memory of a plan as people read it."""

from __future__ import annotations

from rich.table import Table

from orchestrator.foundation.units import show_bytes
from orchestrator.plans.memory.types import Held, Memory

KINDS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "buffers": "model buffers",
    "activations": "activations",
    "batches": "data",
    "communication": "buckets, gathering",
    "update": "optimizer's step",
    "saving": "copy that is saved",
    "start": "building the model",
}


def memory_table(memory: Memory) -> Table:
    """What one worker holds of each kind, its fullest moment, and whether there is so much."""
    columns = {name: held for name, held in (("GPU", memory.device), ("host", memory.host)) if held != Held()}
    table = Table(title="Memory of each worker: its tensors", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for kind, words in KINDS.items():
        amounts = [getattr(held, kind) for held in columns.values()]
        if any(amounts):
            table.add_row(words, *(show_bytes(amount) if amount else "" for amount in amounts))
    if not memory.activations_known:
        table.add_row(KINDS["activations"], "unknown")
    at_least = "" if memory.activations_known else "at least "
    table.add_row("at the fullest", *(at_least + show_bytes(held.peak) for held in columns.values()), style="bold")
    limits = {"GPU": memory.limits.device, "host": memory.limits.host}
    if any(limits[name] for name in columns):
        table.add_row("there is", *(_verdict(held, limits[name]) for name, held in columns.items()))
    return table


def _verdict(held: Held, limit: int) -> str:
    if not limit:
        return "unknown"
    return f"{show_bytes(limit)}: {'fits' if held.peak <= limit else 'does not fit'}"
