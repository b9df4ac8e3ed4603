"""Processes that make batches: torch's DataLoader, fed with one request for each batch.

They are forked from a server process that has imported torch and nothing else, so that they inherit no thread, socket
or lock of the worker's, and end with the worker, however it ends.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from orchestrator.errors import ConfigError, MachineError
from orchestrator.runtime.worker.data.source import BatchRequest, Source
from orchestrator.task import Batch


class Processes:
    """Some processes that make the batches of one split, for one list of requests after the other."""

    def __init__(self, source: Source, workers: int, ahead: int, pin: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["orchestrator.runtime.worker.data.loader_processes"])
        self._source = source
        self._requests = _Requests()
        with _quiet():
            self._loader: Any = DataLoader(
                _Answers(dataclasses.replace(source, seed_libraries=True)),
                sampler=self._requests,
                batch_size=None,
                collate_fn=_unchanged,
                num_workers=workers,
                prefetch_factor=ahead,
                pin_memory=pin,
                multiprocessing_context=context,
                worker_init_fn=_begin,
                persistent_workers=True,
            )

    def run(self, requests: Iterable[BatchRequest]) -> Generator[tuple[Batch, int], None, None]:
        """A batch and its count for each request, in their order; exceptions are raised at their place."""
        self._requests.items = requests
        answers = self._start()
        while True:
            with _losses_explained():
                answer = next(answers, None)
            if answer is None:
                return
            if isinstance(answer, _Failure):
                raise answer.error from RemoteTraceback(answer.text)
            yield answer

    def close(self) -> None:
        """End the processes."""
        self._loader = None

    def _start(self) -> Iterator[Any]:
        try:
            with _quiet(), _without_main():
                return iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"job.loader.processes={self._loader.num_workers}, but the Task or its {self._source.split} split"
                f" cannot be sent to another process: {error}.",
                "Keep lambdas, locks and open files out of them, or set job.loader.processes=0.",
            ) from error


class RemoteTraceback(Exception):
    """The traceback of another process, shown as the cause of an exception that came from there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception in place of a batch. DataLoader's own way keeps no more of it than its type and text."""

    error: Exception
    text: str


class _Requests:
    """What DataLoader takes for a sampler: whatever is to be made next."""

    items: Iterable[BatchRequest] = ()

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.items)


class _Answers(TorchDataset[Any]):
    """What DataLoader takes for a dataset: its items are whole batches, and it is asked for them by request."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, wanted: Any) -> Any:
        try:
            return self._source.counted(wanted)
        except Exception as error:  # noqa: BLE001 - a process boundary: raised again where the batch is asked for
            return _Failure(_sendable(error), "".join(traceback.format_exception(error)))


def _unchanged(batch: Any) -> Any:
    return batch


def _sendable(error: Exception) -> Exception:
    """The exception itself if it crosses to another process, or its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - a person's exception class may fail in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _begin(worker: int) -> None:
    threading.Thread(target=_end_with_parent, name="watch parent", daemon=True).start()


def _end_with_parent() -> None:
    """The kernel tells of the end of the server that forked us, and it is the one that asked for us that matters."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _without_main() -> Iterator[None]:
    """New processes import their parent's main module; a Ray worker's is Ray's own, which takes seconds."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name, None) for name in ("__spec__", "__file__")}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextmanager
def _quiet() -> Iterator[None]:
    """DataLoader warns by the CPUs of the whole machine, and of errors that we raise anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create|Got pickle error")
        yield


@contextmanager
def _losses_explained() -> Iterator[None]:
    """Say what to do when a process is gone, which mostly means that memory was short."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        first = str(error).strip().splitlines()[0]
        raise MachineError(
            f"A process that prepares batches is gone: {first}",
            "Memory may be short: lower job.loader.processes or job.loader.ahead, or give /dev/shm more.",
        ) from error
