"""Batches made ahead of their use."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, UserDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from orchestrator.config.schema import Loader as Settings
from orchestrator.errors import ConfigError, DataError
from orchestrator.plans.types import MeshShape, Row
from orchestrator.runtime.worker.data.loader import Loader, make_batch, map_tensors, prefetch, to_device
from orchestrator.runtime.worker.data.sampler import Sampler
from orchestrator.runtime.worker.data.source import Source
from orchestrator.task import Task


def prefetchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_results_come_in_order() -> None:
    assert list(prefetch(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    assert list(prefetch(lambda n: n, [])) == []
    assert not prefetchers()


def test_so_many_are_made_ahead_and_no_more() -> None:
    made: list[int] = []
    results = prefetch(lambda n: made.append(n) or n, range(50), depth=3)  # type: ignore[func-returns-value]
    assert next(results) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4], "one was taken, three wait, one is in the maker's hand"
    results.close()
    assert not prefetchers()


def test_an_exception_is_raised_at_its_place() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("sample 3 cannot be read")
        return number

    results = prefetch(make, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="sample 3 cannot be read") as caught:
        next(results)
    assert any(frame.name == "make" for frame in caught.traceback), "the traceback leads into the person's code"
    assert next(results, None) is None
    assert not prefetchers()


def test_leaving_early_leaves_no_thread() -> None:
    results = prefetch(lambda n: n, range(1000))
    assert next(results) == 0
    assert len(prefetchers()) == 1
    results.close()
    assert not prefetchers()


def test_an_exception_while_nobody_asks_leaves_no_thread() -> None:
    failed = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            failed.set()
            raise ValueError
        return number

    results = prefetch(make, range(5))
    assert next(results) == 0
    assert failed.wait(5)
    results.close()
    assert not prefetchers()


class Pair(NamedTuple):
    inputs: torch.Tensor
    targets: list[torch.Tensor]


def double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 2


ONE = torch.ones(2)


@pytest.mark.parametrize(
    "nest",
    [
        ONE,
        (ONE, ONE),
        [ONE, (ONE,)],
        {"a": ONE, "b": {"c": [ONE]}},
        OrderedDict(z=ONE, a=ONE),
        Pair(ONE, [ONE, ONE]),
        {"pair": Pair(ONE, []), "length": 3, "name": "x", "none": None},
    ],
)
def test_tensors_are_changed_wherever_they_are(nest: Any) -> None:
    assert flat(map_tensors(nest, double)) == flat(nest).replace("1.", "2.")
    assert type(map_tensors(nest, double)) is type(nest)


def test_dicts_of_other_types_stay_what_they_are() -> None:
    nest = defaultdict(list, a=ONE)
    changed = map_tensors(nest, double)
    assert changed["a"].tolist() == [2.0, 2.0]
    assert changed["not there"] == []
    assert nest["a"] is ONE
    tokens = map_tensors(UserDict(a=ONE), double)
    assert isinstance(tokens, UserDict)
    assert tokens["a"].tolist() == [2.0, 2.0]


def flat(nest: Any) -> str:
    return repr(nest)


def test_what_is_on_the_cpu_stays_as_it_is() -> None:
    batch = (ONE, [ONE])
    assert to_device(batch, torch.device("cpu")) is batch


class Words(Task):
    def collate(self, items: Any) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True, padding_value=-1)

    def count(self, batch: torch.Tensor) -> int:
        return int((batch >= 0).sum())


def test_a_window_counts_what_the_task_counts() -> None:
    task = Words(model=torch.nn.Identity, data=lambda split: None)
    sentences = [torch.arange(n) for n in (1, 2, 3, 4)]
    assert make_batch(task, sentences, [3, 0], pin=False).shape == (2, 4)
    row = Row(world_size=1, mesh=MeshShape(data=1), batch=4, micro_batch=2, accumulation=2, deepspeed={})
    sampler = Sampler(size=4, seed=0, row=row, data_rank=0)
    loader = Loader(Source(task=task, dataset=sentences, split="train"), Settings(), pin=False)
    (window,) = loader.windows(sampler, range(1))
    lengths = [[n + 1 for n in samples] for samples in sampler.window(0)]
    assert [tuple(batch.shape) for batch in window.batches] == [(2, max(pair)) for pair in lengths]
    assert window.count == 10


class Shaky(Task):
    """Adds a random number to each training item."""

    def augment(self, item: torch.Tensor, chance: np.random.Generator) -> torch.Tensor:
        return item + chance.random()


def shaky(dataset: Any, seed: int = 7) -> Loader:
    task = Shaky(model=torch.nn.Identity, data=lambda split: None)
    return Loader(Source(task=task, dataset=dataset, split="train", seed=seed), Settings(), pin=False)


def two_by_three(rank: int) -> Sampler:
    row = Row(world_size=2, mesh=MeshShape(data=2), batch=12, micro_batch=3, accumulation=2, deepspeed={})
    return Sampler(size=31, seed=7, row=row, data_rank=rank)


def values(loader: Loader, sampler: Sampler, steps: range) -> list[float]:
    return [
        value
        for window in loader.windows(sampler, steps)
        for batch in window.batches
        for value in batch.flatten().tolist()
    ]


def test_what_is_random_follows_from_the_seed_and_the_place_in_the_stream() -> None:
    items = [torch.full((1,), float(n)) for n in range(31)]
    whole = values(shaky(items), two_by_three(1), range(8))
    assert values(shaky(items), two_by_three(1), range(5, 8)) == whole[30:]
    assert values(shaky(items, seed=8), two_by_three(1), range(8)) != whole
    samples = [n for step in range(8) for part in two_by_three(1).window(step) for n in part]
    assert [int(value) for value in whole] == samples
    assert len({round(value % 1, 6) for value in whole}) == 48, "each place in the stream has its own"


def test_nothing_is_random_in_an_evaluation() -> None:
    items = [torch.full((1,), float(n)) for n in range(31)]
    (batch,) = shaky(items).batches([[3, 1]])
    assert batch.tolist() == [[3.0], [1.0]]


@pytest.mark.parametrize("error", [OSError("no such photo"), KeyError("label")])
def test_an_unreadable_sample_is_named(error: Exception) -> None:
    class Faulty(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            if index == 5:
                raise error
            return super().__getitem__(index)

    batches = shaky(Faulty(torch.ones(31, 1))).batches([[0], [5]])
    assert len(next(batches)) == 1
    with pytest.raises(DataError, match=r"Sample 5 of the train split cannot be read: (OSError|KeyError): .+py:\d+\)"):
        next(batches)


def test_samples_that_do_not_go_together_are_named() -> None:
    batches = shaky([torch.ones(1), torch.ones(2)]).batches([[0, 1]])
    with pytest.raises(DataError, match=r"Samples 0, 1 of the train split make no batch: RuntimeError: stack expects"):
        next(batches)


def test_our_own_errors_pass_as_they_are() -> None:
    class Picky(Shaky):
        def collate(self, items: Any) -> Any:
            raise ConfigError("data.classes=3 is too few.")

    task = Picky(model=torch.nn.Identity, data=lambda split: None)
    batches = Loader(Source(task=task, dataset=[1], split="val"), Settings(), pin=False).batches([[0]])
    with pytest.raises(ConfigError, match=r"^data.classes=3 is too few.$"):
        next(batches)
