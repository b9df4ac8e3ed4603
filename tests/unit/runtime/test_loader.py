"""Batches made ahead of their use."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, UserDict, defaultdict
from typing import Any, NamedTuple

import pytest
import torch

from orchestrator.runtime.loader import make_batch, make_window, map_tensors, prefetch, to_device
from orchestrator.runtime.task import Task


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
    window = make_window(task, sentences, [[0, 1], [2, 3]], pin=False)
    assert [tuple(batch.shape) for batch in window.batches] == [(2, 2), (2, 4)]
    assert window.count == 10
