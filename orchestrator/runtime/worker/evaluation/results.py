"""What is kept of an evaluation: metrics, the model's answers, and plots of them, in the run's folder."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.foundation.storage import Store
from orchestrator.records import events
from orchestrator.records.events import EventReader, in_words
from orchestrator.runtime.worker.evaluation import plots
from orchestrator.runtime.worker.evaluation.answers import Answers
from orchestrator.task import Dataset

LOSS = "loss.png"


def leave(store: Store, split: str, rank: int, answers: Answers) -> None:
    """One worker's answers, for the one that gathers them."""
    lines = "".join(json.dumps(row) + "\n" for row in answers.rows)  # NaN as Python has it: only we read this
    store.write(f"{_parts(split)}/rank-{rank:05d}.jsonl", lines)


def gather(store: Store, split: str) -> list[dict[str, Any]]:
    """All workers' answers, which are then only here."""
    names = store.list(_parts(split))
    rows = [json.loads(line) for name in names for line in store.read(f"{_parts(split)}/{name}").splitlines()]
    store.remove(_parts(split))
    return rows


def keep(
    store: Store, name: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], classes: Sequence[str] = ()
) -> list[str]:
    """Write an evaluation's folder, in place of an older one of that name; returns the names of its files."""
    shown = [row for row in rows if all(math.isfinite(value) for value in row.values() if isinstance(value, float))]
    with tempfile.TemporaryDirectory(prefix="orchestrator-evaluation-") as scratch:
        folder = Path(scratch)
        files = plots.of_answers(shown, classes)
        files["metrics.json"] = (json.dumps(in_words(about), indent=2) + "\n").encode()
        if rows:
            files["answers.jsonl"] = "".join(json.dumps(in_words(row)) + "\n" for row in rows).encode()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        store.upload(folder, f"{paths.EVALUATIONS}/{name}")
    return sorted(files)


def keep_loss_curves(store: Store) -> None:
    """The losses of all attempts so far, as a picture."""
    points = [
        (name, event.step, value)
        for event in EventReader(store).poll()
        if event.kind == events.METRICS and event.step is not None
        for name, value in event.data["metrics"].items()
    ]
    picture = plots.loss_curves(points)
    if picture:
        with tempfile.TemporaryDirectory(prefix="orchestrator-plots-") as scratch:
            (Path(scratch) / LOSS).write_bytes(picture)
            store.upload(Path(scratch), paths.PLOTS)


def class_names(dataset: Dataset) -> Sequence[str]:
    """What classes are called, where the data says so."""
    facts = getattr(dataset, "facts", {})
    names: Sequence[str] = facts.get("classes", ())
    return names


def _parts(split: str) -> str:
    return f"{paths.EVALUATIONS}/.{split}"
