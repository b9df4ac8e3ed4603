"""What a model says of single items, next to what is true: collected while a split is evaluated, to be looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from orchestrator.task import Task


class Answers:
    """Those of one worker. All workers keep asking for equally many batches: a model in parts needs all of them."""

    def __init__(self, task: Task, batch: int) -> None:
        """`batch`: items in a batch of all workers together."""
        self._batches_left = math.ceil(task.shown / batch) if type(task).show is not Task.show else 0
        self._task = task
        self.rows: list[dict[str, Any]] = []

    def ask(self, model: Any, batch: Any, *, counts: bool) -> None:
        """Have the model's answers for a batch, while there is room. `counts`: whether to keep them."""
        if not self._batches_left:
            return
        self._batches_left -= 1
        columns = {name: _plain(values) for name, values in self._task.show(model, batch).items()}
        if counts:
            self.rows.extend(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def of_batch(truth: Tensor, logits: Tensor) -> Mapping[str, Tensor]:
    """The answers of a classifier: for each item its class, the likeliest class, and how sure the model is of it."""
    confidence, answer = logits.float().softmax(dim=1).max(dim=1)
    return {"truth": truth, "answer": answer, "confidence": confidence}


def _plain(values: Tensor | Sequence[Any]) -> list[Any]:
    return values.detach().cpu().tolist() if isinstance(values, Tensor) else list(values)
