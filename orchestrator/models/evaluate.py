"""Judges a run's model anew: any checkpoint, any split, also on other data. The results go into the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator import paths
from orchestrator.errors import ConfigError, StorageError
from orchestrator.models.export import BEST, find, opened_checkpoint
from orchestrator.records.runs import RunRecord

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrator.task import Dataset, Task

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What came of it."""

    run: str
    checkpoint: str
    step: int
    split: str
    name: str
    """Of its folder in the run, and of its metrics in MLflow: evaluations/NAME."""
    data: dict[str, Any]
    """Settings of the data that differ from the run's."""
    items: int
    seconds: float
    metrics: dict[str, float]
    files: list[str]


class Alone:
    """One process with a whole model, where training had a gang with an engine."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without gradients, dropout and the like."""
        import torch

        self.model.eval()
        with torch.no_grad():
            yield

    def sum(self, values: list[float]) -> list[float]:
        """Nobody to add anything."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Nobody else has any."""
        return [value]


def evaluate(
    record: RunRecord, *, checkpoint: str = BEST, split: str = "test", overrides: Sequence[str] = (), name: str = ""
) -> Evaluation:
    """Compute a split's metrics with a checkpoint's model, in this process, and keep them in the run's folder."""
    from orchestrator.config import edit, load
    from orchestrator.config.targets import targets
    from orchestrator.runtime.checkpoint.catalog import step_of
    from orchestrator.runtime.worker import hardware
    from orchestrator.runtime.worker.evaluation import results
    from orchestrator.runtime.worker.evaluation.answers import Answers

    started, plan = time.monotonic(), record.plan
    tree = edit.changed(plan.spec, overrides, "data")
    name = _name(name or split, overrides)
    spec = load.spec_from_dict(tree)
    chosen = find(record, checkpoint)
    hardware.configure_torch(spec)
    device = _device()
    task: Task = targets.bind(tree, project=paths.project_dir()).task()
    dataset = _dataset(task, split)
    model = _model(record, chosen, task).to(device)
    answers = Answers(task, plan.preferred.micro_batch)
    metrics = _metrics(task, model, dataset, split, plan.preferred.micro_batch, answers, device)
    about = {"checkpoint": chosen, "step": step_of(chosen), "split": split, "metrics": metrics}
    changed = {key: tree["data"][key] for key in tree["data"] if tree["data"][key] != plan.spec["data"].get(key)}
    classes = results.class_names(dataset)
    return Evaluation(
        run=record.id,
        checkpoint=chosen,
        step=step_of(chosen),
        split=split,
        name=name,
        data=changed,
        items=len(dataset),
        seconds=round(time.monotonic() - started, 1),
        metrics=metrics,
        files=results.keep(record.store, name, about | {"data": changed}, answers.rows, classes),
    )


def _metrics(
    task: Task, model: nn.Module, dataset: Dataset, split: str, batch: int, answers: Any, device: torch.device
) -> dict[str, float]:
    from orchestrator.config.schema import Loader as Settings
    from orchestrator.runtime.worker.data.loader import Loader
    from orchestrator.runtime.worker.data.sampler import split_evenly
    from orchestrator.runtime.worker.data.source import Source
    from orchestrator.runtime.worker.evaluation.evaluation import evaluate as over_batches

    alone = Alone(model)
    loader = Loader(Source(task=task, dataset=dataset, split=split), Settings(), pin=False)
    try:
        shares = split_evenly(len(dataset), batch, 0, 1)
        return over_batches(task, alone, alone, loader, shares, counts=True, device=device, answers=answers)
    finally:
        loader.close()


def _model(record: RunRecord, checkpoint: str, task: Task) -> nn.Module:
    """The Task's model with the checkpoint's weights, tensor by tensor."""
    import torch

    from orchestrator.runtime.checkpoint.whole_model import WholeModel

    with opened_checkpoint(record, checkpoint) as opened:
        model, whole = task.build_model(), WholeModel(opened.reader())
        state = model.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        saved = {name: shape for name, (_, shape) in whole.layout.items()}
        differ = sorted(name for name in {*shapes, *saved} if shapes.get(name) != saved.get(name))
        if differ:
            first = f"{differ[0]} is {_shape(saved, differ[0])} there, and {_shape(shapes, differ[0])} in the code"
            raise StorageError(
                f"The model in {checkpoint} is not the one that the code describes now: {first}.",
                "The model's code has changed since it was trained: use the commit that the run recorded.",
            )
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(whole.fetch(name))
        return model


def _shape(known: Mapping[str, tuple[int, ...]], name: str) -> str:
    return f"of shape {list(known[name])}" if name in known else "missing"


def _dataset(task: Task, split: str) -> Dataset:
    dataset = task.dataset(split)
    if dataset is None or len(dataset) == 0:
        there = [name for name in SPLITS if name != split and (task.dataset(name) or ())]
        raise ConfigError(f"The data has no {split} split.", f"It has: {', '.join(there)}." if there else "")
    return dataset


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _name(name: str, overrides: Sequence[str]) -> str:
    """Results on other data do not take the place of those on the run's own."""
    import re

    if name in SPLITS and overrides:
        raise ConfigError(
            "Results on other data need a name of their own.", "Add --name NAME, for example --name new-recordings."
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ConfigError(f"--name {name!r} cannot name results.", "Use letters, digits, '_' and '-'.")
    return name
