"""Pictures of a run, drawn from what lies in its storage: loss curves, and a model's answers next to the truth."""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 40
"""Classes; with more, a matrix of them cannot be read."""
SAMPLES = 20


def of_answers(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> dict[str, bytes]:
    """Files by name: confusion and calibration for classes, predicted against true for numbers, samples for texts."""
    if not rows:
        return {}
    truth, answers = [row["truth"] for row in rows], [row["answer"] for row in rows]
    if isinstance(truth[0], str):
        return {"samples.md": _samples(rows).encode()}
    if "confidence" not in rows[0]:
        return {"predicted.png": _predicted(truth, answers), "errors.png": _errors(truth, answers)}
    confidence = [float(row["confidence"]) for row in rows]
    files = {"calibration.png": _calibration(truth, answers, confidence)}
    if max(*truth, *answers) < MANY:
        files["confusion.png"] = _confusion(truth, answers, names)
    return files


def loss_curves(points: Iterable[tuple[str, int, float]]) -> bytes | None:
    """`train/loss` and `val/loss` by step, as one picture; None when there are none."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for name, step, value in points:
        if name in ("train/loss", "val/loss") and math.isfinite(value):
            curves[name][step] = value
    if not curves:
        return None
    figure, axes = _figure("loss", "step", "loss")
    for name, curve in sorted(curves.items()):
        steps = sorted(curve)
        axes.plot(steps, [curve[step] for step in steps], label=name, marker="." if len(steps) < MANY else "")
    axes.legend()
    return _png(figure)


def _confusion(truth: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> bytes:
    size = max(len(names) if len(names) < MANY else 0, max(*truth, *answers) + 1)
    counts = [[0] * size for _ in range(size)]
    for row, column in zip(truth, answers, strict=True):
        counts[row][column] += 1
    right = sum(counts[k][k] for k in range(size))
    figure, axes = _figure(f"{right:,} of {len(truth):,} right", "the model says", "it is")
    # Shares of each row: classes may differ in size.
    axes.imshow([[cell / max(1, sum(row)) for cell in row] for row in counts], cmap="Blues", vmin=0, vmax=1)
    labels = [names[k] if k < len(names) else str(k) for k in range(size)]
    axes.set_xticks(range(size), labels, rotation=90 if max(map(len, labels)) > 2 else 0)
    axes.set_yticks(range(size), labels)
    if size <= 16:
        for row in range(size):
            for column in range(size):
                if counts[row][column]:
                    dark = counts[row][column] > 0.5 * sum(counts[row])
                    text = f"{counts[row][column]}"
                    axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    return _png(figure)


def _calibration(truth: Sequence[int], answers: Sequence[int], confidence: Sequence[float]) -> bytes:
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for true, said, sure in zip(truth, answers, confidence, strict=True):
        bins[min(9, int(sure * 10))].append((sure, true == said))
    middles = [sum(sure for sure, _ in bins[k]) / len(bins[k]) for k in sorted(bins)]
    shares = [sum(right for _, right in bins[k]) / len(bins[k]) for k in sorted(bins)]
    weights = [len(bins[k]) / len(truth) for k in sorted(bins)]
    gap = sum(abs(a - b) * w for a, b, w in zip(middles, shares, weights, strict=True))
    title = f"calibration: off by {gap:.3f} on average"
    figure, axes = _figure(title, "how sure the model is", "how often it is right")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.plot(middles, shares, marker="o")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return _png(figure)


def _predicted(truth: Sequence[float], answers: Sequence[float]) -> bytes:
    figure, axes = _figure("predicted against true", "true", "predicted")
    low, high = min(truth), max(truth)
    axes.plot([low, high], [low, high], color="grey", linestyle=":")
    axes.scatter(truth, answers, s=6, alpha=0.4, linewidths=0)
    return _png(figure)


def _errors(truth: Sequence[float], answers: Sequence[float]) -> bytes:
    figure, axes = _figure("errors", "predicted - true", "items")
    axes.hist([a - t for a, t in zip(answers, truth, strict=True)], bins=50)
    return _png(figure)


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of Markdown: some that are wrong, then others."""
    columns = [name for name in ("given", "truth", "answer") if name in rows[0]]
    chosen = sorted(rows, key=lambda row: bool(row["truth"] == row["answer"]))[:SAMPLES]
    lines = [[_cell(row[name]) for name in columns] for row in chosen]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [columns, ["---"] * len(columns), *lines])


def _cell(text: object) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("|", "\\|")


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    # Not pyplot: it keeps figures, and looks for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
