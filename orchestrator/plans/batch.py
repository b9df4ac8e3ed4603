"""Batch arithmetic: global batch = micro batch x accumulation x data-parallel size, for every admissible world size.

The global batch is the same at every world size, because the learning rate belongs to it. With several world sizes, a
given accumulation holds for the largest of them that it divides; smaller ones keep the global and the micro batch and
accumulate more. A micro batch that does not divide a worker's share becomes the largest smaller one that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.schema import JobSpec, WorkerRange
from orchestrator.errors import PlanError
from orchestrator.plans.types import MeshShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangement:
    """The mesh and the batch factors of one world size."""

    mesh: MeshShape
    batch: int
    micro_batch: int
    accumulation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangements:
    """Every world size that can run, smallest first, and the reasons why the others cannot."""

    admissible: tuple[Arrangement, ...]
    inadmissible: dict[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The factors a person gave; None: to be derived."""

    batch: int | None
    micro_batch: int | None
    accumulation: int | None
    tensor: int
    pipeline: int

    @property
    def model_parallel(self) -> int:
        """Workers that share one copy of the model."""
        return self.tensor * self.pipeline


def arrange(spec: JobSpec, refused: Mapping[int, str] | None = None) -> Arrangements:
    """Solve the batch equation for every world size asked for; `refused` ones cannot run for another reason."""
    asked = _Asked(
        batch=spec.batch,
        micro_batch=spec.micro_batch,
        accumulation=spec.accumulation,
        tensor=spec.mesh.tensor,
        pipeline=spec.mesh.pipeline,
    )
    _require_enough(asked)
    workers = _workers(spec, asked)
    if workers.low == workers.high:
        return Arrangements(admissible=(_arrange_one(asked, workers.low),), inadmissible={})
    return _arrange_range(asked, workers, dict(refused or {}))


def _require_enough(asked: _Asked) -> None:
    if asked.batch is None and asked.micro_batch is None:
        given = f"accumulation={asked.accumulation} alone" if asked.accumulation else "The config"
        raise PlanError(
            f"{given} does not say how many samples make a step: batch and micro_batch are both null.",
            "Set batch=64 (samples per optimizer step over all workers), or micro_batch (samples per worker).",
        )


# --- world sizes -----------------------------------------------------------------------------------------------------


def _workers(spec: JobSpec, asked: _Asked) -> WorkerRange:
    """The world sizes asked for: given, fixed by the mesh, derived from three batch factors, or 1 copy of the model."""
    workers = WorkerRange.parse(spec.cluster.workers)
    if spec.mesh.data is not None:
        return _workers_of_mesh(spec.mesh.data, asked, workers)
    if workers is not None:
        return workers
    world = _derived_data_size(asked) * asked.model_parallel
    return WorkerRange(low=world, high=world)


def _workers_of_mesh(data: int, asked: _Asked, workers: WorkerRange | None) -> WorkerRange:
    world = data * asked.model_parallel
    if workers is not None and (workers.low, workers.high) != (world, world):
        raise PlanError(
            f"cluster.workers={_show(workers)} contradicts mesh.data={data} x mesh.tensor={asked.tensor} "
            f"x mesh.pipeline={asked.pipeline} = {world}.",
            f"Set cluster.workers={world}, or leave it to the workers (mesh.data=null).",
        )
    return WorkerRange(low=world, high=world)


def _derived_data_size(asked: _Asked) -> int:
    if asked.batch is None or asked.micro_batch is None or asked.accumulation is None:
        return 1
    per_worker = asked.micro_batch * asked.accumulation
    if asked.batch % per_worker:
        raise PlanError(
            f"batch={asked.batch}, micro_batch={asked.micro_batch} and accumulation={asked.accumulation} leave no "
            f"whole number of data-parallel workers: {asked.batch} / ({asked.micro_batch} x {asked.accumulation}) = "
            f"{asked.batch / per_worker:.4g}.",
            f"Nearest batch sizes: {_join(_multiples_around(asked.batch, per_worker))}. "
            "Or leave one of the others out (accumulation=null).",
        )
    return asked.batch // per_worker


def _show(workers: WorkerRange) -> str:
    return str(workers.low) if workers.low == workers.high else f"{workers.low}..{workers.high}"


# --- one world size --------------------------------------------------------------------------------------------------


def _arrange_one(asked: _Asked, world: int) -> Arrangement:
    """Derive what is missing at a single world size, where every given number is kept exactly."""
    uneven = _uneven_mesh(asked, world)
    if uneven:
        near = _multiples_around(world, asked.model_parallel)
        raise PlanError(
            f"cluster.workers={world} cannot be arranged: {uneven}.", f"Nearest worker counts: {_join(near)}."
        )
    data = world // asked.model_parallel
    micro, accumulation = asked.micro_batch, asked.accumulation
    batch = asked.batch or (micro or 1) * (accumulation or 1) * data
    if micro is not None and accumulation is not None:
        _require_product(asked, batch, micro, accumulation, data)
        return _arrangement(asked, data, micro, accumulation)
    if micro is not None:
        return _arrangement(asked, data, micro, _quotient(asked, batch, data))
    return _arrangement(asked, data, _quotient(asked, batch, data), accumulation or 1)


def _arrangement(asked: _Asked, data: int, micro: int, accumulation: int) -> Arrangement:
    return Arrangement(
        mesh=MeshShape(data=data, tensor=asked.tensor, pipeline=asked.pipeline),
        batch=micro * accumulation * data,
        micro_batch=micro,
        accumulation=accumulation,
    )


def _uneven_mesh(asked: _Asked, world: int) -> str:
    if world % asked.model_parallel == 0:
        return ""
    return f"{world} workers do not divide by mesh.tensor={asked.tensor} x mesh.pipeline={asked.pipeline}"


def _require_product(asked: _Asked, batch: int, micro: int, accumulation: int, data: int, of: str = "") -> None:
    product = micro * accumulation * data
    if product == batch:
        return
    ways = [f"batch={product}"]
    if batch % (micro * data) == 0:
        ways.append(f"accumulation={batch // (micro * data)}")
    elif batch % (accumulation * data) == 0:
        ways.append(f"micro_batch={batch // (accumulation * data)}")
    elif batch % (micro * accumulation) == 0:
        ways.append(f"cluster.workers={batch // (micro * accumulation) * asked.model_parallel}")
    raise PlanError(
        f"batch={batch}, micro_batch={micro}, accumulation={accumulation} and {_data_workers(data)}{of} "
        f"contradict each other: {micro} x {accumulation} x {data} = {product}.",
        f"Set {', '.join(ways)}, or leave one of them out (batch=null).",
    )


def _quotient(asked: _Asked, batch: int, data: int) -> int:
    """The missing one of micro batch and accumulation, or an error that names what would divide."""
    key, given = ("micro_batch", asked.micro_batch) if asked.micro_batch else ("accumulation", asked.accumulation or 1)
    unit = given * data
    if batch % unit == 0:
        return batch // unit
    divisor = _data_workers(data) if given == 1 else f"{key}={given} x {_data_workers(data)} = {unit}"
    hint = f"Nearest batch sizes: {_join(_multiples_around(batch, unit))}."
    sizes = _data_sizes_around(batch, given, data)
    if sizes:
        hint += f" Nearest worker counts: {_join([size * asked.model_parallel for size in sizes])}."
    if given > 1 and batch % data == 0:
        near = _largest_divisor(batch // data, given)
        hint += f" Or set {key}={near}, which divides."
    raise PlanError(f"batch={batch} does not divide by {divisor}.", hint)


# --- several world sizes ---------------------------------------------------------------------------------------------


def _arrange_range(asked: _Asked, workers: WorkerRange, refused: dict[int, str]) -> Arrangements:
    """Solve for each world size of a range; those without a solution are refused, each with its reason."""
    reasons = {world: reason for world, reason in refused.items() if workers.low <= world <= workers.high}
    sizes: list[int] = []
    for world in range(workers.low, workers.high + 1):
        uneven = _uneven_mesh(asked, world)
        if uneven:
            reasons[world] = uneven
        elif world not in reasons:
            sizes.append(world // asked.model_parallel)
    _require_some(bool(sizes), workers, reasons)
    batch = asked.batch or (asked.micro_batch or 1) * (asked.accumulation or 1) * sizes[-1]
    candidates = sizes
    sizes = [data for data in candidates if batch % data == 0]
    for data in set(candidates) - set(sizes):
        reasons[data * asked.model_parallel] = f"batch={batch} does not divide by {_data_workers(data)}"
    _require_some(bool(sizes), workers, reasons, hint=_range_hint(asked, batch, candidates))
    sizes, micro = _target_micro_batch(asked, batch, sizes, workers, reasons)
    rows = [_keep_near(asked, batch, data, micro) for data in sizes]
    return Arrangements(admissible=tuple(rows), inadmissible=dict(sorted(reasons.items())))


def _target_micro_batch(
    asked: _Asked, batch: int, sizes: list[int], workers: WorkerRange, reasons: dict[int, str]
) -> tuple[list[int], int]:
    """The micro batch that all world sizes aim at, and the sizes that are left: the largest of them sets it."""
    if asked.micro_batch is not None:
        if asked.accumulation is not None:
            of = f" (the largest of {_show(workers)} that divides the batch)"
            _require_product(asked, batch, asked.micro_batch, asked.accumulation, sizes[-1], of)
        return sizes, asked.micro_batch
    accumulation = asked.accumulation or 1
    holding = [data for data in sizes if batch % (data * accumulation) == 0]
    if not holding:
        unit = sizes[-1] * accumulation
        raise PlanError(
            f"batch={batch} does not divide by accumulation={accumulation} at any of {_show(workers)} workers.",
            f"Nearest batch sizes: {_join(_multiples_around(batch, unit))}. Or leave it out (accumulation=null).",
        )
    for data in sizes:
        if data > holding[-1]:
            reasons[data * asked.model_parallel] = (
                f"batch={batch} does not divide by accumulation={accumulation} x {_data_workers(data)}"
            )
    return [data for data in sizes if data <= holding[-1]], batch // (holding[-1] * accumulation)


def _keep_near(asked: _Asked, batch: int, data: int, micro: int) -> Arrangement:
    share = batch // data
    fitting = _largest_divisor(share, micro)
    return _arrangement(asked, data, fitting, share // fitting)


def _require_some(condition: bool, workers: WorkerRange, reasons: dict[int, str], hint: str = "") -> None:
    if condition:
        return
    listed = "; ".join(f"{world}: {reason}" for world, reason in sorted(reasons.items())[:5])
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    raise PlanError(f"None of cluster.workers={_show(workers)} can run ({listed}{more}).", hint)


def _range_hint(asked: _Asked, batch: int, sizes: list[int]) -> str:
    multiples = {multiple for data in sizes for multiple in _multiples_around(batch, data)}
    nearest = sorted(multiples, key=lambda multiple: abs(multiple - batch))[:2]
    counts = _data_sizes_around(batch, 1, sizes[0])
    return (
        f"Nearest batch sizes: {_join(sorted(nearest))}. "
        f"Nearest worker counts: {_join([size * asked.model_parallel for size in counts])}."
    )


# --- numbers ---------------------------------------------------------------------------------------------------------


def _largest_divisor(number: int, at_most: int) -> int:
    return next(divisor for divisor in range(min(number, at_most), 0, -1) if number % divisor == 0)


def _multiples_around(number: int, unit: int) -> list[int]:
    below = number // unit * unit
    return [multiple for multiple in (below, below + unit) if multiple > 0]


def _data_sizes_around(batch: int, given: int, data: int) -> list[int]:
    """The nearest data-parallel sizes below and above `data` at which the batch divides."""
    if batch % given:
        return []
    divisors = [size for size in range(1, batch // given + 1) if (batch // given) % size == 0]
    below = [size for size in divisors if size < data][-1:]
    return below + [size for size in divisors if size > data][:1]


def _data_workers(data: int) -> str:
    return f"{data} data-parallel worker{'s' if data > 1 else ''}"


def _join(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
