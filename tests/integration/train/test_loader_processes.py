"""Batches made by processes: the same to the bit as those of a thread, errors at their place, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.schema import Loader as Settings
from orchestrator.errors import ConfigError, DataError, MachineError
from orchestrator.plans.types import MeshShape, Row
from orchestrator.runtime.worker.data.loader import Loader, Source
from orchestrator.runtime.worker.data.sampler import Sampler
from orchestrator.runtime.worker.hardware import seed_step
from orchestrator.task import Task
from tests.integration.processes import children

pytestmark = pytest.mark.matrix(2)

ROW = Row(world_size=2, mesh=MeshShape(data=2), batch=12, micro_batch=3, accumulation=2, deepspeed={})


class Sentences(Task):
    """Sums of sentences of different lengths, some of whose tokens are dropped at random."""

    def augment(self, item: Tensor, chance: np.random.Generator) -> Tensor:
        return item * torch.from_numpy(chance.random(len(item)) < 0.7)

    def collate(self, items: Any) -> Tensor:
        return nn.utils.rnn.pad_sequence(list(items), batch_first=True)

    def count(self, batch: Tensor) -> int:
        return int((batch > 0).sum())

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch.sum(dim=1, keepdim=True).float()) - 1).square().sum()


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def sentences(split: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 20, (31,), generator=generator)
    return [torch.randint(1, 9, (int(n),), generator=generator) for n in lengths]


class Faulty:
    """Sample 5 cannot be read; sample 6 ends the process."""

    def __len__(self) -> int:
        return 31

    def __getitem__(self, index: int) -> Tensor:
        if index == 5:
            raise OSError("no such photo")
        if index == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(2)


class Drawing:
    """Draws from the libraries' own random numbers, as people's code does."""

    def __len__(self) -> int:
        return 31

    def __getitem__(self, index: int) -> Tensor:
        return torch.cat([torch.rand(2), torch.from_numpy(np.random.rand(2)), torch.tensor([index])])


def loader(workers: int, dataset: Any = None, ahead: int = 2) -> Loader:
    task = Sentences(model=build, data=sentences)
    source = Source(task=task, dataset=dataset or task.dataset("train"), split="train", seed=7)
    return Loader(source, Settings(processes=workers, ahead=ahead), pin=False)


def sampler(row: Row = ROW) -> Sampler:
    return Sampler(size=31, seed=7, row=row, data_rank=1)


def curve(
    workers: int, first: int = 0, last: int = 10, model: nn.Module | None = None
) -> tuple[list[float], nn.Module]:
    """Losses of a plain training with dropout and augmentation."""
    if model is None:
        torch.manual_seed(0)
        model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    task, made, losses = Sentences(model=build, data=sentences), loader(workers), []
    for step, window in enumerate(made.windows(sampler(), range(first, last)), first):
        seed_step(7, step, 1)
        optimizer.zero_grad()
        loss = sum(task.loss(model, batch) / window.count for batch in window.batches)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    made.close()
    return losses, model


def test_the_curve_is_the_same_to_the_bit_however_many_processes_there_are() -> None:
    thread, _ = curve(0)
    assert len(set(thread)) == 10
    for workers in (1, 3):
        assert curve(workers)[0] == thread


def test_a_run_resumed_in_the_middle_goes_on_with_the_same_batches() -> None:
    whole, _ = curve(0)
    _, model = curve(3, 0, 4)
    assert curve(1, 4, 10, model)[0] == whole[4:]


def test_what_is_random_follows_the_sample_and_not_the_number_of_ranks() -> None:
    alone = Row(world_size=1, mesh=MeshShape(data=1), batch=12, micro_batch=12, accumulation=1, deepspeed={})
    made = loader(2, Drawing())
    (whole,) = next(made.windows(Sampler(size=31, seed=7, row=alone, data_rank=0), range(1))).batches
    shares = [next(made.windows(Sampler(size=31, seed=7, row=ROW, data_rank=k), range(1))).batches for k in range(2)]
    made.close()
    rows = [row for forward in range(2) for rank in range(2) for row in shares[rank][forward].tolist()]
    assert rows == whole.tolist()


def test_an_error_names_the_sample_and_comes_at_its_place() -> None:
    for workers in (0, 2):
        made = loader(workers, Faulty())
        batches = made.batches([[0], [1], [5], [2]])
        assert [len(next(batches)), len(next(batches))] == [1, 1]
        with pytest.raises(
            DataError, match=r"Sample 5 of the train split cannot be read: OSError: no such photo \(.+py:"
        ):
            next(batches)
        made.close()


def test_a_killed_process_is_told_with_what_to_do() -> None:
    made = loader(2, Faulty())
    with pytest.raises(MachineError, match=r"process that prepares batches is gone.*lower job.loader.processes"):
        list(made.batches([[0], [6], [1]]))
    made.close()


def test_what_cannot_be_sent_is_refused_by_name() -> None:
    made = loader(2, [torch.ones(1), lambda: 0])
    with pytest.raises(ConfigError, match=r"job.loader.processes=2, but the Task or its train split cannot be sent"):
        next(made.batches([[0]]))
    made.close()


def working() -> list[psutil.Process]:
    servers = children(os.getpid(), "forkserver")
    return [grandchild for server in servers for grandchild in server.children()]


def test_evaluations_use_the_same_processes_and_close_ends_them() -> None:
    made = loader(2)
    before = {process.pid for process in working()}
    first = list(made.batches([[0, 1], [2]]))
    ours = {process.pid for process in working()} - before
    assert len(ours) == 2
    early = made.batches([[0]] * 20)
    next(early)
    early.close()
    again = list(made.batches([[0, 1], [2]]))
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in first]
    assert {process.pid for process in working()} - before == ours
    made.close()
    wait_until(lambda: not ours & {process.pid for process in working()})


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_process_outlives_a_killed_worker(tmp_path: Path) -> None:
    script = """
        import time
        from test_loader_processes import loader, sampler

        made = loader(2)
        windows = made.windows(sampler(), range(1000))
        next(windows)
        print("ready", flush=True)
        time.sleep(60)
    """
    (tmp_path / "victim.py").write_text(textwrap.dedent(script))
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "victim.py")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    ) as victim:
        assert victim.stdout
        assert victim.stdout.readline() == b"ready\n"
        family = psutil.Process(victim.pid).children(recursive=True)
        assert len(family) >= 3
        victim.kill()
    wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in family))
