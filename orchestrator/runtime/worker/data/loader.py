"""Batches, made ahead of their use: in a thread of this process, or in processes of their own.

The order is the sampler's, and what is random in a sample follows from the seed and its place in the stream alone. So
batches are the same to the bit however many processes make them.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Generator, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from orchestrator.config.schema import Loader as Settings
from orchestrator.runtime.worker.data.sampler import Sampler
from orchestrator.runtime.worker.data.source import BatchRequest, Source
from orchestrator.task import Batch, Dataset, Task

if TYPE_CHECKING:
    from orchestrator.runtime.worker.data.loader_processes import Processes

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What one worker computes in one optimizer step."""

    batches: list[Batch]
    count: int
    """Items or tokens in them: this worker's part of what the loss is divided by."""


class Loader:
    """Makes the batches of one split, as `job.loader` says."""

    def __init__(self, source: Source, settings: Settings, pin: bool) -> None:
        self._source = source
        self._settings = settings
        self._pin = pin
        self._processes: Processes | None = None

    def windows(self, sampler: Sampler, steps: Sequence[int]) -> Generator[Window, None, None]:
        """What this worker computes in each of the steps."""
        if not self._settings.processes:
            yield from prefetch(lambda step: self._window(sampler, step), steps, self._settings.ahead)
            return
        requests = (wanted for step in steps for wanted in _requests(sampler, step))
        made = self._from_processes(requests, per_step=sampler.accumulation)
        try:
            for _ in steps:
                parts = [next(made) for _ in range(sampler.accumulation)]
                yield Window(batches=[batch for batch, _ in parts], count=sum(count for _, count in parts))
        finally:
            made.close()

    def batches(self, shares: Sequence[Sequence[int]]) -> Generator[Batch, None, None]:
        """One batch for each list of samples, without anything random."""
        if not self._settings.processes:
            yield from prefetch(
                lambda k: self._pinned(self._source.counted(BatchRequest(samples=shares[k]))[0]),
                range(len(shares)),
                self._settings.ahead,
            )
            return
        made = self._from_processes((BatchRequest(samples=samples) for samples in shares), per_step=1)
        try:
            for batch, _ in made:
                yield batch
        finally:
            made.close()

    def close(self) -> None:
        """End the processes, if there are any."""
        if self._processes:
            self._processes.close()
            self._processes = None

    def _window(self, sampler: Sampler, step: int) -> Window:
        parts = [self._source.counted(wanted) for wanted in _requests(sampler, step)]
        return Window(
            batches=[self._pinned(batch) for batch, _ in parts],
            count=sum(count for _, count in parts),
        )

    def _pinned(self, batch: Batch) -> Batch:
        return map_tensors(batch, torch.Tensor.pin_memory) if self._pin else batch

    def _from_processes(
        self, requests: Iterable[BatchRequest], per_step: int
    ) -> Generator[tuple[Batch, int], None, None]:
        from orchestrator.runtime.worker.data.loader_processes import Processes

        if self._processes is None:
            ahead = -(-self._settings.ahead * per_step // self._settings.processes)
            self._processes = Processes(self._source, self._settings.processes, ahead, self._pin)
        return self._processes.run(requests)


def _requests(sampler: Sampler, step: int) -> list[BatchRequest]:
    return [
        BatchRequest(samples=samples, positions=positions)
        for samples, positions in zip(sampler.window(step), sampler.positions(step), strict=True)
    ]


def make_batch(task: Task, dataset: Dataset, samples: Sequence[int], pin: bool) -> Batch:
    """Fetch and collate samples, in page-locked memory when they go to a GPU."""
    batch = task.collate([dataset[index] for index in samples])
    return map_tensors(batch, torch.Tensor.pin_memory) if pin else batch


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
