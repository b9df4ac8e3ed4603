"""A sweep as pictures: one page of HTML that can be clicked into, and its history as PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orchestrator.sweeps.engine.ledger import State, Trial
from orchestrator.sweeps.report.report import Report

PAGE, HISTORY = "sweep.html", "history.png"
CURVES = 200
"""More learning curves than this in one picture cannot be told apart."""


def draw(report: Report, folder: Path) -> None:
    """Write all pictures into a folder; nothing when no trial has a value yet."""
    if not report.ranked():
        return
    figures = [_history(report), _curves(report), _coordinates(report), _importance(report), _front(report)]
    _write_page(report, [figure for figure in figures if figure is not None], folder / PAGE)
    _draw_history(report, folder / HISTORY)


def _write_page(report: Report, figures: list[Any], file: Path) -> None:
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0, default_height="520px")
        for number, figure in enumerate(figures)
    ]
    head = f"<!doctype html><meta charset='utf-8'><title>{report.record.name}</title>"
    file.write_text(f"{head}<body style='font-family: sans-serif'>{''.join(parts)}</body>\n", encoding="utf-8")


def _figure(title: str, x: str = "", y: str = "") -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, template="plotly_white", hovermode="closest")
    return figure


def _told(trial: Trial) -> str:
    return f"trial {trial.number} ({trial.state.value})<br>" + "<br>".join(trial.overrides)


def _history(report: Report) -> Any:
    figure = _figure("History", "trial", report.metric)
    for state in (State.finished, State.pruned):
        trials = [t for t in sorted(report.ranked(), key=lambda t: t.number) if t.state is state]
        if trials:
            figure.add_scatter(
                x=[t.number for t in trials],
                y=[report.value(t) for t in trials],
                text=[_told(t) for t in trials],
                mode="markers",
                name=state.value,
            )
    numbers, best = _best_so_far(report)
    figure.add_scatter(x=numbers, y=best, mode="lines", name="best so far", line_shape="hv")
    return figure


def _best_so_far(report: Report) -> tuple[list[int], list[float]]:
    choose = min if report.record.objectives[report.metric] == "min" else max
    numbers: list[int] = []
    best: list[float] = []
    for trial in sorted((t for t in report.ranked() if t.state is State.finished), key=lambda t: t.ended or 0.0):
        value = report.value(trial)
        if value is not None:
            numbers.append(len(numbers))
            best.append(choose(best[-1], value) if best else value)
    return numbers, best


def _curves(report: Report) -> Any:
    trials = [t for _, t in sorted(report.book.trials.items()) if t.rungs][:CURVES]
    if not trials:
        return None
    figure = _figure("Learning curves", report.record.unit, report.metric)
    for trial in trials:
        points = [(rung.at, rung.metrics.get(report.metric)) for rung in trial.rungs]
        if trial.state is State.finished:
            points.append((report.record.length, report.value(trial)))
        figure.add_scatter(
            x=[at for at, _ in points],
            y=[value for _, value in points],
            mode="lines+markers",
            name=f"trial {trial.number}",
            text=_told(trial),
        )
    return figure


def _coordinates(report: Report) -> Any:
    """Parallel coordinates over the parameters that every trial has."""
    import plotly.graph_objects as go

    trials = report.ranked()
    keys = [key for key in report.record.space if all(key in trial.values for trial in trials)]
    if not keys:
        return None
    axes = [_axis(key, [trial.values[key] for trial in trials]) for key in keys]
    values = [report.value(trial) for trial in trials]
    lines = {"color": values, "colorscale": "Viridis", "showscale": True}
    figure = go.Figure(go.Parcoords(line=lines, dimensions=[*axes, {"label": report.metric, "values": values}]))
    figure.update_layout(title="Parallel coordinates", template="plotly_white")
    return figure


def _axis(key: str, values: list[Any]) -> dict[str, Any]:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        wide = min(values) > 0 and max(values) / min(values) > 100
        if not wide:
            return {"label": key, "values": values}
        places = [math.log10(value) for value in values]
        ticks = list(range(math.floor(min(places)), math.ceil(max(places)) + 1))
        return {"label": key, "values": places, "tickvals": ticks, "ticktext": [f"1e{tick}" for tick in ticks]}
    names = sorted({str(value) for value in values})
    places = [names.index(str(value)) for value in values]
    return {"label": key, "values": places, "tickvals": list(range(len(names))), "ticktext": names}


def _importance(report: Report) -> Any:
    """How much of the spread of results each parameter explains."""
    found = importance(report)
    if not found:
        return None
    figure = _figure("Importance of parameters", "share", "")
    names = list(found)[::-1]
    figure.add_bar(x=[found[name] for name in names], y=names, orientation="h")
    return figure


def importance(report: Report) -> dict[str, float]:
    """The share of each parameter, largest first; nothing where there are too few trials, or no Optuna."""
    try:
        import optuna
    except ImportError:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = [t for t in report.ranked() if t.state is State.finished]
    keys = [key for key in report.record.space if all(key in trial.values for trial in trials)]
    if len(trials) < 4 or not keys:
        return {}
    axes = {key: _axis(key, [trial.values[key] for trial in trials])["values"] for key in keys}
    study = optuna.create_study(
        direction="minimize" if report.record.objectives[report.metric] == "min" else "maximize"
    )
    spans = {key: (float(min(values)), float(max(values))) for key, values in axes.items()}
    spans = {key: span for key, span in spans.items() if span[0] < span[1]}
    kinds: dict[str, Any] = {key: optuna.distributions.FloatDistribution(*span) for key, span in spans.items()}
    for number, trial in enumerate(trials):
        point = {key: float(axes[key][number]) for key in spans}
        study.add_trial(optuna.create_trial(params=point, distributions=kinds, value=report.value(trial)))
    if not spans:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _front(report: Report) -> Any:
    names = list(report.record.objectives)
    if len(names) < 2:
        return None
    figure = _figure("Pareto front", names[0], names[1])
    front = {trial.number for trial in report.front()}
    done = [t for t in report.book.trials.values() if t.state is State.finished]
    for inside, label in ((False, "others"), (True, "front")):
        chosen = [t for t in done if (t.number in front) is inside]
        figure.add_scatter(
            x=[t.metrics.get(names[0]) for t in chosen],
            y=[t.metrics.get(names[1]) for t in chosen],
            text=[_told(t) for t in chosen],
            mode="markers",
            name=label,
        )
    return figure


def _draw_history(report: Report, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for state, mark in ((State.finished, "o"), (State.pruned, "x")):
        trials = [t for t in report.ranked() if t.state is state]
        if trials:
            axes.plot([t.number for t in trials], [report.value(t) or 0.0 for t in trials], mark, label=state.value)
    axes.step(*_best_so_far(report), where="post", label="best so far")
    axes.set(title=report.record.name, xlabel="trial", ylabel=report.metric)
    axes.legend()
    figure.savefig(file, dpi=110)
