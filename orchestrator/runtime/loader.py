"""Batches, made ahead of their use in a thread of their own."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Generator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from orchestrator.runtime.task import Batch, Dataset, Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What one worker computes in one optimizer step."""

    batches: list[Batch]
    count: int
    """Items or tokens in them: this worker's part of what the loss is divided by."""


def make_batch(task: Task, dataset: Dataset, samples: Sequence[int], pin: bool) -> Batch:
    """Fetch and collate samples, in page-locked memory when they go to a GPU."""
    batch = task.collate([dataset[index] for index in samples])
    return map_tensors(batch, torch.Tensor.pin_memory) if pin else batch


def make_window(task: Task, dataset: Dataset, windows: Sequence[Sequence[int]], pin: bool) -> Window:
    """All batches of one optimizer step."""
    batches = [make_batch(task, dataset, samples, pin) for samples in windows]
    return Window(batches=batches, count=sum(task.count(batch) for batch in batches))


def prefetch(make: Callable[[int], T], numbers: Sequence[int], depth: int = 4) -> Generator[T, None, None]:
    """`make(n)` for each number in turn, up to `depth` made ahead. Exceptions of `make` are raised at their place."""
    results: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
    done = threading.Event()

    def put(item: tuple[bool, Any]) -> bool:
        while not done.is_set():
            try:
                results.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        for number in numbers:
            try:
                item = (True, make(number))
            except Exception as error:  # noqa: BLE001 - a thread boundary: raised again in the thread that asks
                put((False, error))
                return
            if not put(item):
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in numbers:
            good, item = results.get()
            if not good:
                raise item
            yield item
    finally:
        done.set()
        thread.join()


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nest of tuples, lists and dicts with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, MutableMapping):
        # A copy keeps what else a dict of another type has; such types take their items in different ways.
        changed = copy.copy(value)
        for key, item in value.items():
            changed[key] = map_tensors(item, change)
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch, without waiting for the copy when it comes from page-locked memory."""
    if device.type == "cpu":
        return batch
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))
