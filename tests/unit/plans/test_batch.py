"""Batch arithmetic: batch = micro batch x accumulation x data-parallel size."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from orchestrator.config.schema import Cluster, JobSpec, Mesh
from orchestrator.errors import PlanError
from orchestrator.plans.batch import Arrangements, arrange
from tests.unit.plans.plan_specs import spec


def given(
    batch: int | None = None,
    micro: int | None = None,
    accumulation: int | None = None,
    workers: Any = None,
    **mesh: int,
) -> JobSpec:
    return spec(
        batch=batch, micro_batch=micro, accumulation=accumulation, cluster=Cluster(workers=workers), mesh=Mesh(**mesh)
    )


def factors(arrangements: Arrangements) -> list[tuple[int, int, int, int]]:
    return [(row.batch, row.micro_batch, row.accumulation, row.mesh.world_size) for row in arrangements.admissible]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        # batch, micro, accumulation, workers as asked; then as planned
        ((64, 16, 2, 2), (64, 16, 2, 2)),
        ((64, 16, 2, None), (64, 16, 2, 2)),
        ((64, 16, None, 2), (64, 16, 2, 2)),
        ((64, None, 2, 2), (64, 16, 2, 2)),
        ((None, 16, 2, 2), (64, 16, 2, 2)),
        ((64, 16, None, None), (64, 16, 4, 1)),
        ((64, None, 2, None), (64, 32, 2, 1)),
        ((64, None, None, 2), (64, 32, 1, 2)),
        ((64, None, None, None), (64, 64, 1, 1)),
        ((None, 16, None, 2), (32, 16, 1, 2)),
        ((None, 16, 2, None), (32, 16, 2, 1)),
        ((None, 16, None, None), (16, 16, 1, 1)),
        ((64, 16, 2, "2..2"), (64, 16, 2, 2)),
        ((1, None, None, None), (1, 1, 1, 1)),
    ],
)
def test_what_is_missing_is_derived(asked: tuple[Any, ...], expected: tuple[int, ...]) -> None:
    assert factors(arrange(given(*asked))) == [expected]


def test_every_combination_is_solved_exactly_or_refused() -> None:
    batches, micros, accumulations, sizes = (
        [None, 1, 6, 48, 64],
        [None, 1, 3, 4, 16],
        [None, 1, 2, 5],
        [None, 1, 2, 3, 8],
    )
    solved = 0
    for batch, micro, accumulation, workers in itertools.product(batches, micros, accumulations, sizes):
        try:
            [row] = arrange(given(batch, micro, accumulation, workers)).admissible
        except PlanError:
            continue
        solved += 1
        assert row.batch == row.micro_batch * row.accumulation * row.mesh.data
        assert row.batch == (batch or row.batch)
        assert row.micro_batch == (micro or row.micro_batch)
        assert row.accumulation == (accumulation or row.accumulation)
        assert row.mesh.world_size == (workers or row.mesh.world_size)
    assert solved > 100


def test_ranges_keep_the_batch_and_never_exceed_the_micro_batch() -> None:
    for batch, micro, (low, high) in itertools.product([None, 48, 60, 64], [1, 3, 4, 16], [(1, 4), (2, 8), (3, 7)]):
        done = arrange(given(batch, micro, workers=f"{low}..{high}"))
        worlds = [row.mesh.world_size for row in done.admissible]
        assert sorted([*worlds, *done.inadmissible]) == list(range(low, high + 1))
        assert worlds == sorted(worlds)
        assert len({row.batch for row in done.admissible}) == 1
        for row in done.admissible:
            assert row.batch == (batch or row.batch) == row.micro_batch * row.accumulation * row.mesh.data
            assert row.micro_batch <= micro


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        (
            (128, 16, 2, 2),
            "batch=128, micro_batch=16, accumulation=2 and 2 data-parallel workers contradict each other: "
            "16 x 2 x 2 = 64.",
            "Set batch=64, accumulation=4, or leave one of them out (batch=null).",
        ),
        (
            (30, 16, 3, 2),
            "batch=30, micro_batch=16, accumulation=3 and 2 data-parallel workers contradict each other: "
            "16 x 3 x 2 = 96.",
            "Set batch=96, micro_batch=5, or leave one of them out (batch=null).",
        ),
        (
            (100, None, None, 3),
            "batch=100 does not divide by 3 data-parallel workers.",
            "Nearest batch sizes: 99, 102. Nearest worker counts: 2, 4.",
        ),
        (
            (100, 16, None, 2),
            "batch=100 does not divide by micro_batch=16 x 2 data-parallel workers = 32.",
            "Nearest batch sizes: 96, 128. Or set micro_batch=10, which divides.",
        ),
        (
            (100, None, 8, None),
            "batch=100 does not divide by accumulation=8 x 1 data-parallel worker = 8.",
            "Nearest batch sizes: 96, 104. Or set accumulation=5, which divides.",
        ),
        (
            (100, 16, 2, None),
            "batch=100, micro_batch=16 and accumulation=2 leave no whole number of data-parallel workers: "
            "100 / (16 x 2) = 3.125.",
            "Nearest batch sizes: 96, 128. Or leave one of the others out (accumulation=null).",
        ),
        (
            (None, None, None, 2),
            "The config does not say how many samples make a step: batch and micro_batch are both null.",
            "Set batch=64 (samples per optimizer step over all workers), or micro_batch (samples per worker).",
        ),
        (
            (None, None, 2, 2),
            "accumulation=2 alone does not say how many samples make a step: batch and micro_batch are both null.",
            "Set batch=64 (samples per optimizer step over all workers), or micro_batch (samples per worker).",
        ),
        (
            (7, None, None, "2..3"),
            "None of cluster.workers=2..3 can run (2: batch=7 does not divide by 2 data-parallel workers; "
            "3: batch=7 does not divide by 3 data-parallel workers).",
            "Nearest batch sizes: 6, 8. Nearest worker counts: 1, 7.",
        ),
        (
            (64, None, 5, "2..4"),
            "batch=64 does not divide by accumulation=5 at any of 2..4 workers.",
            "Nearest batch sizes: 60, 80. Or leave it out (accumulation=null).",
        ),
        (
            (64, 4, 1, "2..8"),
            "batch=64, micro_batch=4, accumulation=1 and 8 data-parallel workers (the largest of 2..8 that divides the "
            "batch) contradict each other: 4 x 1 x 8 = 32.",
            "Set batch=32, accumulation=2, or leave one of them out (batch=null).",
        ),
    ],
)
def test_contradictions_name_the_factors_and_the_ways_out(asked: tuple[Any, ...], message: str, hint: str) -> None:
    with pytest.raises(PlanError) as caught:
        arrange(given(*asked))
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_range_keeps_the_micro_batch_where_it_divides() -> None:
    done = arrange(given(60, 4, workers="2..8"))
    assert factors(done) == [(60, 3, 10, 2), (60, 4, 5, 3), (60, 3, 5, 4), (60, 4, 3, 5), (60, 2, 5, 6)]
    assert done.inadmissible == {
        7: "batch=60 does not divide by 7 data-parallel workers",
        8: "batch=60 does not divide by 8 data-parallel workers",
    }


def test_range_holds_the_accumulation_at_the_largest_world_size() -> None:
    assert factors(arrange(given(64, None, 2, "2..4"))) == [(64, 8, 4, 2), (64, 8, 2, 4)]
    assert factors(arrange(given(None, 8, 2, "2..4"))) == [(64, 8, 4, 2), (64, 8, 2, 4)]


def test_range_with_only_a_batch_accumulates_more_at_smaller_sizes_rather_than_take_more_memory() -> None:
    assert factors(arrange(given(64, workers="2..4"))) == [(64, 16, 2, 2), (64, 16, 1, 4)]


def test_range_skips_sizes_refused_for_other_reasons() -> None:
    done = arrange(given(None, 8, workers="2..4"), {4: "no GPU left", 9: "not asked for"})
    assert factors(done) == [(24, 6, 2, 2), (24, 8, 1, 3)]
    assert done.inadmissible[4] == "no GPU left"
    assert 9 not in done.inadmissible


def test_model_parallel_workers_share_a_batch() -> None:
    [row] = arrange(given(64, 8, workers=8, tensor=2, pipeline=2)).admissible
    assert (row.mesh.data, row.accumulation, row.mesh.world_size) == (2, 4, 8)
    [row] = arrange(given(64, 16, 2, tensor=2)).admissible
    assert (row.mesh.data, row.mesh.world_size) == (2, 4)
    done = arrange(given(64, 8, workers="2..4", tensor=2))
    assert [row.mesh.world_size for row in done.admissible] == [2, 4]
    assert done.inadmissible == {3: "3 workers do not divide by mesh.tensor=2 x mesh.pipeline=1"}
    with pytest.raises(PlanError, match=r"cluster\.workers=3 cannot be arranged.*Nearest worker counts: 2, 4"):
        arrange(given(64, workers=3, tensor=2))


def test_mesh_fixes_the_workers() -> None:
    assert factors(arrange(given(64, data=4))) == [(64, 16, 1, 4)]
    assert factors(arrange(given(64, workers=4, data=4))) == [(64, 16, 1, 4)]
    for workers, shown in ((2, "2"), ("2..8", "2..8")):
        with pytest.raises(PlanError) as caught:
            arrange(given(64, workers=workers, data=4))
        assert caught.value.message == (
            f"cluster.workers={shown} contradicts mesh.data=4 x mesh.tensor=1 x mesh.pipeline=1 = 4."
        )
        assert caught.value.hint == "Set cluster.workers=4, or leave it to the workers (mesh.data=null)."
