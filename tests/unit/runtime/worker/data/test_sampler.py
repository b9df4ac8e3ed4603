"""Where each sample is, over many shapes of a training: nothing is lost, doubled, or moved by a change of workers."""

from __future__ import annotations

import itertools
import random

import pytest

from orchestrator.plans.types import MeshShape, Row
from orchestrator.runtime.worker.data.sampler import Sampler, ends_epoch, permutation, split_evenly, total_steps


def row(micro: int, accumulation: int, data: int) -> Row:
    return Row(
        world_size=data,
        mesh=MeshShape(data=data),
        batch=micro * accumulation * data,
        micro_batch=micro,
        accumulation=accumulation,
        deepspeed={},
    )


def splits(batch: int) -> list[Row]:
    """Every way to spread a batch over workers and accumulation."""
    return [
        row(batch // (data * accumulation), accumulation, data)
        for data, accumulation in itertools.product(range(1, batch + 1), repeat=2)
        if batch % (data * accumulation) == 0
    ]


def samples_of(step: int, shape: Row, size: int, seed: int = 7) -> list[int]:
    """What all ranks together compute in a step."""
    ranks = [Sampler(size=size, seed=seed, row=shape, data_rank=rank) for rank in range(shape.mesh.data)]
    return [index for sampler in ranks for batch in sampler.window(step) for index in batch]


def shapes(count: int = 40) -> list[tuple[int, Row]]:
    """Trainings of all sorts, the same in every run: (size of the data, row)."""
    dice = random.Random(1)
    return [
        (dice.randint(1, 60), row(dice.randint(1, 5), dice.randint(1, 4), dice.randint(1, 5))) for _ in range(count)
    ]


@pytest.mark.parametrize("batch", [1, 6, 12])
@pytest.mark.parametrize("size", [1, 5, 12, 37])
def test_a_step_has_the_same_samples_for_any_number_of_workers(batch: int, size: int) -> None:
    for step in range(5):
        seen = {tuple(sorted(samples_of(step, shape, size))) for shape in splits(batch)}
        assert len(seen) == 1
        assert len(seen.pop()) == batch


@pytest.mark.parametrize(("size", "shape"), shapes())
def test_steps_pass_over_the_data_in_whole_permutations(size: int, shape: Row) -> None:
    passes = 3
    steps = total_steps(size, shape.batch, passes, None)
    stream: list[int] = []
    for step in range(steps):
        stream.extend(_in_stream_order(step, shape, size))
    for epoch in range(passes):
        one_pass = stream[epoch * size : (epoch + 1) * size]
        assert one_pass == permutation(size, 7, epoch)
        assert sorted(one_pass) == list(range(size))
    assert len(stream) - passes * size < shape.batch, "only the last step may reach into the next pass"


def _in_stream_order(step: int, shape: Row, size: int) -> list[int]:
    windows = [Sampler(size=size, seed=7, row=shape, data_rank=rank).window(step) for rank in range(shape.mesh.data)]
    return [
        index
        for forward in range(shape.accumulation)
        for rank in range(shape.mesh.data)
        for index in windows[rank][forward]
    ]


@pytest.mark.parametrize(("size", "shape"), shapes(15))
def test_resuming_at_any_step_goes_on_with_the_same_samples(size: int, shape: Row) -> None:
    undisturbed = Sampler(size=size, seed=7, row=shape, data_rank=shape.mesh.data - 1)
    stream = [undisturbed.window(step) for step in range(10)]
    for start in range(10):
        resumed = Sampler(size=size, seed=7, row=shape, data_rank=shape.mesh.data - 1)
        assert [resumed.window(step) for step in range(start, 10)] == stream[start:]


def trainings(count: int = 60) -> list[tuple[int, int, list[tuple[int, Row]]]]:
    """Trainings that are cut somewhere and go on with another number of workers: (size, batch, [(steps, row), ...])."""
    dice = random.Random(2)
    found = []
    for _ in range(count):
        size, batch = dice.randint(1, 60), dice.choice([1, 2, 6, 12, 16])
        parts = [(dice.randint(1, 6), dice.choice(splits(batch))) for _ in range(dice.randint(1, 5))]
        found.append((size, batch, parts))
    return found


@pytest.mark.parametrize(("size", "batch", "parts"), trainings())
def test_cuts_and_changes_of_workers_lose_and_repeat_nothing(
    size: int, batch: int, parts: list[tuple[int, Row]]
) -> None:
    log: list[int] = []
    for steps, shape in parts:
        begin = len(log) // batch
        for step in range(begin, begin + steps):
            log.extend(_in_stream_order(step, shape, size))
    passes = [log[start : start + size] for start in range(0, len(log), size)]
    for epoch, seen in enumerate(passes):
        assert seen == permutation(size, 7, epoch)[: len(seen)]


@pytest.mark.parametrize("shape", splits(12))
def test_positions_are_where_the_samples_of_a_window_stand(shape: Row) -> None:
    for rank in range(shape.mesh.data):
        sampler = Sampler(size=37, seed=7, row=shape, data_rank=rank)
        for step in range(7):
            expected = [
                [permutation(37, 7, place // 37)[place % 37] for place in places] for places in sampler.positions(step)
            ]
            assert sampler.window(step) == expected


def test_windows_have_the_shape_of_the_row() -> None:
    window = Sampler(size=100, seed=0, row=row(micro=4, accumulation=3, data=2), data_rank=1).window(2)
    assert [len(batch) for batch in window] == [4, 4, 4]


def test_seeds_and_passes_differ() -> None:
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize(
    ("size", "batch", "epochs", "steps", "expected"),
    [
        (100, 10, 1, None, 10),
        (100, 32, 1, None, 4),
        (100, 32, 3, None, 10),
        (100, 32, 0.5, None, 2),
        (10, 64, 1, None, 1),
        (10, 64, 0.01, None, 1),
        (1797, 64, 1 / 3, None, 10),
        (3, 1, 1 / 3, None, 1),
        (30, 1, 0.1, None, 3),
        (100, 10, None, 7, 7),
        (100, 10, 2, 7, 7),
    ],
)
def test_total_steps(size: int, batch: int, epochs: float | None, steps: int | None, expected: int) -> None:
    assert total_steps(size, batch, epochs, steps) == expected


@pytest.mark.parametrize("size", [1, 7, 64, 100])
@pytest.mark.parametrize("batch", [1, 7, 32, 100, 250])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_an_epoch_ends_in_the_step_that_completes_it(size: int, batch: int, every: int) -> None:
    for step in range(1, 60):
        before, after = (step - 1) * batch, step * batch
        boundaries = [n for n in range(size * every, after + 1, size * every) if before < n]
        assert ends_epoch(step, batch, size, every) == bool(boundaries)


def test_the_last_step_of_a_training_by_epochs_ends_one() -> None:
    for size, batch, epochs in itertools.product([1, 7, 64, 100], [1, 7, 32, 250], [1, 2, 5]):
        assert ends_epoch(total_steps(size, batch, epochs, None), batch, size, 1)


@pytest.mark.parametrize(
    ("size", "batch", "workers"), list(itertools.product([1, 2, 7, 16, 33, 100], [1, 4, 50], [1, 2, 3, 8]))
)
def test_an_evaluation_takes_every_sample_once_and_every_rank_as_many_batches(
    size: int, batch: int, workers: int
) -> None:
    shares = [split_evenly(size, batch, rank, workers) for rank in range(workers)]
    counted = [index for share in shares for samples, counts in share if counts for index in samples]
    assert sorted(counted) == list(range(size))
    assert len({len(share) for share in shares}) == 1
    assert all(0 < len(samples) <= batch for share in shares for samples, _ in share), "no batch may be empty"
    assert all(samples == [0] for share in shares for samples, counts in share if not counts)


def test_more_workers_than_samples_repeat_one_that_does_not_count() -> None:
    assert split_evenly(2, 4, 3, 5) == [([0], False)]
