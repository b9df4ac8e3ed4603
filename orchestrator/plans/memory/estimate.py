"""How much memory each worker needs, from a model's profile alone: no torch, no DeepSpeed.

Parameters, gradients and optimizer states are what DeepSpeed 0.19's ranks hold, to the byte (zero_layout.py has
the rules); buckets, gathered parameters and temporaries are estimates; activations come measured with the profile.
docs/memory.md says what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.config.schema import JobSpec, PrecisionName
from orchestrator.foundation.units import show_bytes
from orchestrator.plans.deepspeed.ds_config import NVME_BUFFERS
from orchestrator.plans.memory import tensor_layout, zero_layout
from orchestrator.plans.memory.profile_types import ModelProfile
from orchestrator.plans.memory.types import Held, Memory
from orchestrator.plans.types import Row

FP32 = 4
NOTHING = Held()
BYTES = {PrecisionName.fp32: 4, PrecisionName.bf16: 2, PrecisionName.fp16: 2}
PLAIN_BUCKET = 500_000_000
"""engine.py, `MEMORY_OPT_ALLREDUCE_SIZE`."""
WINDOWS_BESIDE = 2
"""worker/data/loader.py: of the windows made ahead (job.loader.ahead) one more is being made, and one computed."""
UNMODELLED = (
    "communication_data_type",
    "data_types",
    "torch_autocast",
    "zero_optimization.round_robin_gradients",
    "zero_optimization.parameter_alignment",
    "zero_optimization.zenflow",
    "zero_optimization.zero_hpz_partition_size",
    "zero_optimization.zero_quantized_weights",
    "zero_optimization.zero_quantized_nontrainable_weights",
    "zero_optimization.zero_quantized_gradients",
    "zero_optimization.leaf_module",
)
"""DeepSpeed settings that change what is held in ways not counted here."""


def estimate(profile: ModelProfile, spec: JobSpec, row: Row, *, on_gpu: bool) -> Memory:
    """What the fullest worker of a row needs."""
    # Of a layer that does not divide, the first workers hold the larger parts.
    case = _case(profile, spec, row, part=0, on_gpu=on_gpu)
    return _memory(case, profile, row, _fullest_rank(case))


def per_rank(profile: ModelProfile, spec: JobSpec, row: Row, *, on_gpu: bool) -> tuple[Memory, ...]:
    """What each worker needs; they differ in gradients (ZeRO 1 and 2), in padding, and in their parts of layers."""
    tensor = row.mesh.tensor
    cases = [_case(profile, spec, row, part=part, on_gpu=on_gpu) for part in range(tensor)]
    # Neighbours hold the parts of one copy of the model (runtime/checkpoint/tensor_parallel.py).
    return tuple(_memory(cases[rank % tensor], profile, row, rank // tensor) for rank in range(row.world_size))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What the rules ask about, read once from profile, spec and row. Sizes in elements, `element` in bytes.

    The sizes are of what the worker holds of the model; only `whole` is of all of it.
    """

    whole: int
    windows: int
    """Of data on the host."""
    saves_beside: bool
    """Whether checkpoints are copied and written beside training."""
    groups: list[list[int]]
    all: list[int]
    frozen: list[int]
    modules: list[int]
    """Elements of the parameters of each module itself."""
    element: int
    ranks: int
    accumulation: int
    on_gpu: bool
    zero: Mapping[str, Any]
    optimizer: Mapping[str, Any]

    @property
    def stage(self) -> int:
        return int(self.zero.get("stage", 0))

    @property
    def trainable(self) -> int:
        return sum(map(sum, self.groups))

    @property
    def largest(self) -> int:
        """Of the trainable parameters."""
        return max(map(max, self.groups), default=0)

    @property
    def is_adam(self) -> bool:
        return str(self.optimizer.get("type", "")).lower().startswith("adam")

    @property
    def moments(self) -> int:
        """fp32 numbers that the optimizer keeps per master weight."""
        params = self.optimizer.get("params", {})
        if self.is_adam:
            return 3 if params.get("amsgrad") else 2
        return 1 if params.get("momentum") else 0

    def counters(self, tensors: int) -> int:
        """Bytes of Adam's step counts, one per tensor; torch keeps them on the host."""
        return FP32 * tensors if self.is_adam else 0

    def states(self, elements: int) -> int:
        """Bytes of the moments of so many master weights."""
        return FP32 * self.moments * elements

    def step_temporaries(self, together: Sequence[int], *, on_gpu: bool) -> int:
        """Bytes that torch's optimizer allocates in a step over these tensors.

        On GPUs it takes all tensors of a group at once (foreach), on CPUs one after the other.
        """
        params = self.optimizer.get("params", {})
        decoupled = self.is_adam and params.get("adam_w_mode", True)
        copies = int(bool(params.get("weight_decay")) and not decoupled) + int(bool(params.get("nesterov")))
        if self.is_adam:
            copies += 1 if on_gpu else 2
        return FP32 * copies * (sum(together) if on_gpu else max(together, default=0))

    def bucket(self) -> int:
        """Bytes of one reduce bucket. A CPU's memory is taken page by page as it is written, a GPU's at once."""
        size = int(self.zero.get("reduce_bucket_size", PLAIN_BUCKET))
        return self.element * (size if self.on_gpu else min(size, self.trainable))

    def buckets(self) -> int:
        """Bytes of all reduce buckets of ZeRO 1 and 2: two when communication overlaps."""
        return self.bucket() * (2 if self.zero.get("overlap_comm") else 1)

    def offloads(self, what: str) -> bool:
        return self._offload_device(what) != "none"

    @property
    def swaps(self) -> bool:
        """Whether the optimizer's states lie on a disk."""
        return self._offload_device("optimizer") == "nvme"

    def _offload_device(self, what: str) -> str:
        return str((self.zero.get(f"offload_{what}") or {}).get("device", "none"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _States:
    """What a strategy keeps on the device and on the host, and how much of it is padding."""

    device: Held
    host: Held = NOTHING
    padding: int = 0
    disk: int = 0


def _case(profile: ModelProfile, spec: JobSpec, row: Row, *, part: int, on_gpu: bool) -> _Case:
    """`part`: which part of the layers that mesh.tensor cuts."""
    held = _held(profile, row, part)
    modules: dict[str, int] = {}
    for parameter in held.parameters:
        module = parameter.name.rpartition(".")[0]
        modules[module] = modules.get(module, 0) + parameter.numel
    return _Case(
        whole=sum(parameter.numel for parameter in profile.parameters),
        windows=spec.job.loader.ahead + WINDOWS_BESIDE,
        saves_beside=spec.checkpoint.asynchronous,
        groups=held.groups(spec.optimizer.no_decay),
        all=[parameter.numel for parameter in held.parameters],
        frozen=[parameter.numel for parameter in held.parameters if not parameter.trainable],
        modules=list(modules.values()),
        element=BYTES[spec.precision.name],
        ranks=row.mesh.data,
        accumulation=row.accumulation,
        on_gpu=on_gpu,
        zero=row.deepspeed.get("zero_optimization", {}),
        optimizer=row.deepspeed.get("optimizer", {}),
    )


def _held(profile: ModelProfile, row: Row, part: int) -> ModelProfile:
    section = row.deepspeed.get("tensor_parallel", {})
    if row.mesh.tensor == 1 or not tensor_layout.is_modelled(section):
        return profile
    return tensor_layout.share(profile, section, row.mesh.tensor, part)


def _fullest_rank(case: _Case) -> int:
    if case.stage not in (1, 2):
        return 0
    groups = zero_layout.flat_groups(case.groups, case.ranks)
    return max(range(case.ranks), key=lambda rank: zero_layout.gradient_elements(groups, rank))


def _memory(case: _Case, profile: ModelProfile, row: Row, rank: int) -> Memory:
    states = _states(case, rank)
    activations = profile.activation_bytes(row.micro_batch)
    batch = profile.batch_bytes(row.micro_batch)
    device = replace(
        states.device,
        buffers=profile.buffer_bytes,
        activations=activations or 0,
        batches=batch,
        start=_start(case) + profile.buffer_bytes,
    )
    host = replace(states.host, batches=case.windows * row.accumulation * batch, saving=_saving(case, profile))
    if case.on_gpu:
        host = replace(host, start=FP32 * case.whole + profile.buffer_bytes)
    else:
        device, host = NOTHING, device + host
    return Memory(
        device=device,
        host=host,
        padding=states.padding,
        activations_known=activations is not None,
        notes=(*profile.notes, *_notes(row, states.disk)),
    )


def _start(case: _Case) -> int:
    """The engine moves the whole fp32 model to the device; ZeRO 1 and 2 then copy each group into a flat buffer."""
    flattening = max(map(sum, case.groups), default=0) if case.stage in (1, 2) else 0
    return max(FP32 * case.whole, case.element * (sum(case.all) + flattening))


def _saving(case: _Case, profile: ModelProfile) -> int:
    """A copy of what a worker writes: its share of the masters and moments, of what is frozen, and the buffers."""
    if not case.saves_beside:
        return 0
    shared = FP32 * (1 + case.moments) * case.trainable + case.element * sum(case.frozen)
    return -(-shared // case.ranks) + profile.buffer_bytes


def _states(case: _Case, rank: int) -> _States:
    if not case.groups:
        return _States(device=Held(parameters=case.element * sum(case.all)))
    if case.stage == 0:
        return _plain(case)
    return _zero_12(case, rank) if case.stage < 3 else _zero_3(case, rank)


# --- plain data parallelism ------------------------------------------------------------------------------------------


def _plain(case: _Case) -> _States:
    """fp32: torch's optimizer on the parameters themselves. Half: FP16_UnfusedOptimizer, with a master of each."""
    mixed = case.element < FP32
    flat = [numel for group in case.groups for numel in group]
    reducing = case.element * max(zero_layout.reduce_buckets(flat, PLAIN_BUCKET))
    widened = FP32 * case.trainable if mixed else 0
    stepping = widened + max(case.step_temporaries(group, on_gpu=case.on_gpu) for group in case.groups)
    return _States(
        device=Held(
            parameters=case.element * sum(case.all),
            gradients=case.element * case.trainable,
            optimizer=widened + case.states(case.trainable),
            update=max(reducing, stepping),
        ),
        host=Held(optimizer=case.counters(len(flat))),
    )


# --- ZeRO 1 and 2 ----------------------------------------------------------------------------------------------------


def _zero_12(case: _Case, rank: int) -> _States:
    """DeepSpeedZeroOptimizer: flat groups, of which each rank optimizes a part through an fp32 copy."""
    groups = zero_layout.flat_groups(case.groups, case.ranks)
    element, owned = case.element, sum(group.partition for group in groups)
    parameters = element * (sum(group.aligned for group in groups) + sum(case.frozen))
    optimizer = FP32 * owned + case.states(owned)
    fill = sum(group.fill(rank) for group in groups)
    padding = element * sum(group.aligned - group.numel for group in groups) + (FP32 + case.states(1)) * fill
    counters = case.counters(len(groups))
    if case.offloads("optimizer"):
        device, host = _offloaded_gradients(case, groups, rank)
        host = replace(host, optimizer=optimizer + counters)
        return _States(device=replace(device, parameters=parameters), host=host, padding=padding + FP32 * fill)
    gradients = element * zero_layout.gradient_elements(groups, rank)
    return _States(
        device=Held(
            parameters=parameters,
            gradients=gradients,
            optimizer=optimizer,
            communication=_reducing(case, gradients),
            update=max(_stepping(case, [group.partition for group in groups]), _late_reduction(case)),
        ),
        host=Held(optimizer=counters),
        padding=padding + element * fill,
    )


def _reducing(case: _Case, gradients: int) -> int:
    """During the backward pass. ZeRO 1 holds all gradients until the window's end, ZeRO 2 a second partition."""
    if case.stage == 1:
        return max(0, case.element * case.trainable - gradients) + case.buckets()
    accumulating = gradients if case.accumulation > 1 else 0
    return case.buckets() + accumulating + case.element * case.largest


def _late_reduction(case: _Case) -> int:
    """ZeRO 1 reduces when the window's last backward pass is over: whole gradients beside those it will keep."""
    return case.element * case.trainable + case.buckets() if case.stage == 1 else 0


def _stepping(case: _Case, partitions: Sequence[int]) -> int:
    """One partition after the other: its gradients flat, in fp32, and the optimizer's temporaries."""
    narrow = case.element if case.element < FP32 else 0
    return max(
        max((FP32 + narrow) * part, FP32 * part + case.step_temporaries([part], on_gpu=case.on_gpu))
        for part in partitions
    )


def _offloaded_gradients(case: _Case, groups: Sequence[zero_layout.FlatGroup], rank: int) -> tuple[Held, Held]:
    """On the device only one bucket and one gradient at a time; the host keeps fp32 gradients between steps too."""
    element, owned = case.element, sum(group.partition for group in groups)
    accumulated = element * sum(group.touched(rank) for group in groups) if case.accumulation > 1 else 0
    lasting = element * (owned + case.largest)
    stepping = max(case.step_temporaries([group.partition], on_gpu=False) for group in groups)
    device = Held(
        communication=case.buckets() + (2 * element + FP32) * case.largest,
        update=element * case.largest,
    )
    host = Held(gradients=FP32 * owned + accumulated, communication=lasting, update=lasting + stepping)
    return device, host


# --- ZeRO 3 ----------------------------------------------------------------------------------------------------------


def _zero_3(case: _Case, rank: int) -> _States:
    """DeepSpeedZeroOptimizer_Stage3: each parameter cut into equal parts, small ones kept whole as well."""
    element = case.element
    trainable = [numel for group in case.groups for numel in group]
    owned = sum(zero_layout.partition(numel, case.ranks) for numel in trainable)
    frozen = sum(zero_layout.partition(numel, case.ranks) for numel in case.frozen)
    size = int(case.zero.get("sub_group_size", 10**9))
    sub_groups = [piece for group in case.groups for piece in zero_layout.sub_groups(group, case.ranks, size)]
    pieces = [_owned(piece, case.ranks) for piece in sub_groups]
    whole = element * _whole_elements(case)
    optimizer = FP32 * owned + case.states(owned)
    filled = sum(_fill(numel, case.ranks, rank) for numel in trainable)
    padding = filled * (2 * element + FP32 + case.states(1))
    device = Held(communication=_gathering(case) + case.bucket(), update=case.bucket())
    host = Held(optimizer=case.counters(len(pieces)))
    disk = 0
    if case.offloads("optimizer"):
        stepping = case.step_temporaries([max(pieces)], on_gpu=False)
        lasting = Held(gradients=(element + FP32) * owned, optimizer=optimizer, update=stepping)
        host, padding = host + lasting, padding + FP32 * filled
        if case.swaps:
            host, disk = _swapped(case, host, sub_groups, rank)
    else:
        device += Held(gradients=element * owned, optimizer=optimizer, update=_stepping(case, pieces))
    if case.offloads("param"):
        device, host = device + Held(parameters=whole), host + Held(parameters=element * (owned + frozen))
    else:
        device += Held(parameters=element * (owned + frozen) + whole)
    return _States(device=device, host=host, padding=padding, disk=disk)


def _swapped(case: _Case, host: Held, sub_groups: list[list[int]], rank: int) -> tuple[Held, int]:
    """What remains in memory of an offloaded optimizer whose larger groups lie on a disk, and how much lies there.

    In place of them there are buffers, and those fp32 gradients that DeepSpeed does not write into files.
    """
    swapped = [piece for piece in sub_groups if zero_layout.is_swapped(_owned(piece, case.ranks))]
    elements = sum(_owned(piece, case.ranks) for piece in swapped)
    # Of gradients there is no padding.
    real = [
        zero_layout.partition(numel, case.ranks) - _fill(numel, case.ranks, rank)
        for piece in swapped
        for numel in piece
    ]
    kept = sum(part for part in real if zero_layout.keeps_gradient(part))
    largest = max(_owned(piece, case.ranks) for piece in sub_groups)
    buffers = FP32 * NVME_BUFFERS * zero_layout.round_up(largest, zero_layout.SWAP_ALIGNMENT)
    # fp32 gradients are not copied: they are views of the buffer that they were reduced into.
    gradients = host.gradients - FP32 * elements + (FP32 * kept if case.element < FP32 else 0)
    states = FP32 * elements + case.states(elements)
    remaining = replace(
        host,
        gradients=gradients,
        optimizer=host.optimizer - states,
        communication=host.communication + buffers,
        update=host.update + buffers,
    )
    return remaining, states + FP32 * (sum(real) - kept)


def _owned(numels: Sequence[int], ranks: int) -> int:
    return sum(zero_layout.partition(numel, ranks) for numel in numels)


def _whole_elements(case: _Case) -> int:
    """Elements of small parameters that stay whole; a single rank's part is the whole already."""
    if case.ranks == 1 and not case.offloads("param"):
        return 0
    limit = int(case.zero.get("stage3_model_persistence_threshold", 2**62))
    kept = zero_layout.persistent(case.all, int(case.zero.get("stage3_param_persistence_threshold", 10**5)), limit)
    return sum(zero_layout.round_up(numel, case.ranks) for numel in kept)


def _gathering(case: _Case) -> int:
    """Bytes of parameters gathered for use, and of gradients on their way to their owners.

    What is used again within `max_reuse_distance` elements is not let go (`__params_to_release`): about half that
    distance before the turn from forward to backward.
    """
    limit = int(case.zero.get("stage3_param_persistence_threshold", 10**5))
    gathered = sum(zero_layout.round_up(numel, case.ranks) for numel in case.all if numel > limit)
    reuse = int(case.zero.get("stage3_max_reuse_distance", 10**9)) // 2
    ahead = int(case.zero.get("stage3_prefetch_bucket_size", 5 * 10**7))
    live = min(gathered, reuse + ahead + max(case.modules, default=0))
    if case.ranks == 1 and not case.offloads("param"):
        live = 0
    size = int(case.zero.get("reduce_bucket_size", PLAIN_BUCKET))
    scattering = max(case.largest, min(size, case.trainable))
    return case.element * (live + scattering + case.largest)


def _fill(numel: int, ranks: int, rank: int) -> int:
    """Elements of a rank's part of one parameter that are padding."""
    part = zero_layout.partition(numel, ranks)
    return part - max(0, min(part, numel - rank * part))


# --- notes -----------------------------------------------------------------------------------------------------------


def _notes(row: Row, disk: int) -> list[str]:
    notes = [f"Each worker keeps {show_bytes(disk)} in files in strategy.nvme_path."] if disk else []
    if row.mesh.tensor > 1:
        counted = tensor_layout.is_modelled(row.deepspeed.get("tensor_parallel", {}))
        what = "Activations are" if counted else "Memory is"
        notes.append(f"{what} counted as if every worker held whole layers: an upper bound for this mesh.")
    own = [key for key in UNMODELLED if _is_set(row.deepspeed, key)]
    if own:
        notes.append(f"Memory is counted without what these DeepSpeed settings change: {', '.join(own)}.")
    return notes


def _is_set(config: Mapping[str, Any], dotted: str) -> bool:
    value: Any = config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    # 1 turns off what is given as a number of ranks.
    return value is True or (bool(value) and value != 1)
